"""What stands under deploy/ fits what a run reads and answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from streamfer.cli import app
from streamfer.config import load_config
from streamfer.serve import health, metrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def kubernetes() -> dict[str, Any]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


def test_their_settings_load(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(kubernetes()["ConfigMap"]["data"]["run.yaml"], encoding="utf-8")
    for path in (file, DEPLOY / "run.yaml"):
        config = load_config(path, {}, {})
        assert config.sources
        assert config.publish.redis
        assert str(config.health.address).endswith(":9090")


def test_compose_mounts_what_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    files = [DEPLOY / name for name in mounted if name.startswith("./") and name != "./camera.mp4"]
    assert len(files) >= 6
    assert [file.name for file in files if not file.is_file()] == []
    assert (DEPLOY / services["streamfer"]["build"]["context"] / services["streamfer"]["build"]["dockerfile"]).is_file()
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_probes_ask_what_is_answered() -> None:
    (container,) = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
    probes = {probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
    answered = set(re.findall(r'Route\("(/\w+)"', Path(health.__file__).read_text(encoding="utf-8")))
    assert probes == {"/livez", "/readyz"}
    assert probes <= answered


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "streamfer.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in re.findall(r"\bstreamfer_\w+", asked)}
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    known = set(re.findall(r'"(streamfer_\w+)"', source)) | {f"streamfer_{name}" for name in metrics._COUNTED}
    assert len(names) >= 8
    assert names - known == set()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "streamfer.service").read_text(encoding="utf-8")
    program = shutil.which("true")
    unit = tmp_path / "streamfer.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.M), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert {"streamfer", "uv.lock", "scripts"} <= set(copied)
    assert [name for name in copied if not (DEPLOY.parent / name).exists()] == []
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001"]
    assert "--uid 10001 streamfer" in " ".join(lines)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {f"!{name}" for name in copied} <= set(ignored)


def lint(*command: str) -> None:
    """Run a linter that is installed beside the tests."""
    program = shutil.which(command[0], path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_takes_the_dockerfile() -> None:
    # Debian's own versions are pinned by the base image; uv.lock pins the rest.
    lint("hadolint", "--ignore", "DL3008", str(DEPLOY / "Dockerfile"))


def test_compose_is_of_its_schema() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_kubernetes_takes_every_resource() -> None:
    lint("kubernetes-validate", "--strict", str(DEPLOY / "kubernetes.yaml"))


def test_the_page_of_compose_has_a_token_and_finds_redis() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    page = services["page"]
    assert page["environment"]["STREAMFER_SERVE__TOKEN"].startswith("${STREAMFER_PAGE_TOKEN:?")
    words = page["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    settings = {"publish.redis": options["--redis"], "serve.address": options["--address"], "serve.token": "secret"}
    config = load_config(None, settings, {})
    assert config.publish.redis == load_config(DEPLOY / "run.yaml", {}, {}).publish.redis
    assert page["ports"] == [f"127.0.0.1:8080:{config.serve.address.rpartition(':')[2]}"]
    assert options["--redis"].split("/")[2].split(":")[0] in services


def test_the_bridge_of_compose_hands_on_what_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    bridge = services["bridge"]
    group: Any = typer.main.get_command(app)
    with group.commands["bridge"].make_context("bridge", bridge["command"][1:]) as context:
        given = context.params
    assert given["kind"] == "mqtt"
    assert given["redis"] == load_config(DEPLOY / "run.yaml", {}, {}).publish.redis
    assert given["url"].removeprefix("mqtt://") in bridge["depends_on"]
    assert [name for name in bridge["depends_on"] if name not in services] == []
    assert bridge["hostname"], "without a name of its own it takes up what it left after a minute only"


def test_the_dashboards_series_are_scraped() -> None:
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    port = str(load_config(DEPLOY / "run.yaml", {}, {}).health.address).rpartition(":")[2]
    for job in scraped:
        (target,) = job["static_configs"][0]["targets"]
        name, _, asked = target.partition(":")
        assert name in services
        assert (asked, job.get("metrics_path", "/metrics")) == (port, "/metrics")
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text(encoding="utf-8"))["datasources"][0]
    dashboard = json.loads((DEPLOY / "grafana" / "streamfer.json").read_text(encoding="utf-8"))
    used = {panel.get("datasource", {}).get("uid") for panel in dashboard["panels"]} - {None}
    assert used <= {source["uid"], "${datasource}"}
    assert source["url"].split("/")[2].partition(":")[0] in services
