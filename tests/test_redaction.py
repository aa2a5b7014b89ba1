"""No password survives redaction, whatever characters it is made of."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamfer.redaction import redact_text, redact_url

SCHEMES = st.sampled_from(["rtsp", "rtsps", "http", "https", "redis", "rediss", "unix", "RTSP", "rtmp", "x+y.z-1"])
HOSTS = st.sampled_from(["10.0.0.5", "camera.example", "[2001:db8::1]", "localhost", "h"])
PORTS = st.sampled_from(["", ":554", ":6379"])
PATHS = st.sampled_from(["", "/", "/live", "/0", "/a/b.mp4", "/Streaming/Channels/101", "/live?fps=5", "/x?a=1&b=2"])
USERS = st.text(alphabet="abcdefghijklmnopqrstuvwxyzADMIN0123456789._-", max_size=8)
# Long enough, and of characters that stand nowhere else, so that finding it again means a leak.
SECRETS = st.text(alphabet="QWXYZ§äЖ", min_size=5, max_size=12)
WEIRD = st.text(alphabet="/?#@:;&=%+ !$'\"()*,[]<>{}|\\^`~.-_", max_size=4)


@st.composite
def passwords(draw: st.DrawFn) -> tuple[str, str]:
    """A password with weird characters at any place, and its recognisable core."""
    core = draw(SECRETS)
    return draw(WEIRD) + core + draw(WEIRD), core


@given(SCHEMES, USERS, passwords(), HOSTS, PORTS, PATHS)
@example("rtsp", "admin", ("pa#QWXYZ", "QWXYZ"), "10.0.0.5", "", "/live")
@example("rtsp", "admin", ("pa?QWXYZ", "QWXYZ"), "10.0.0.5", "", "/live")
@example("rtsp", "admin", ("QWXYZ@x/y", "QWXYZ"), "10.0.0.5", "", "/live")
@example("rtsp", "admin", ("12/QWXYZ", "QWXYZ"), "10.0.0.5", "", "/live")
@example("rtsp", "admin", ("[QWXYZ", "QWXYZ"), "10.0.0.5", "", "/live")
def test_no_raw_password_survives(
    scheme: str, user: str, password: tuple[str, str], host: str, port: str, path: str
) -> None:
    shown = redact_url(f"{scheme}://{user}:{password[0]}@{host}{port}{path}")
    assert password[1] not in shown
    assert shown.startswith(f"{scheme}://***@{host}{port}")


@given(SCHEMES, USERS, st.text(min_size=1, max_size=20), HOSTS, PORTS, PATHS)
def test_encoded_credentials_are_replaced_by_three_stars(
    scheme: str, user: str, password: str, host: str, port: str, path: str
) -> None:
    encoded = quote(password.encode(errors="surrogatepass"), safe="")
    assert redact_url(f"{scheme}://{user}:{encoded}@{host}{port}{path}") == f"{scheme}://***@{host}{port}{path}"


@given(SCHEMES, USERS, passwords(), HOSTS, PORTS, PATHS, st.sampled_from(["'", '"', "", "(", "url="]))
def test_no_password_survives_in_a_sentence(
    scheme: str, user: str, password: tuple[str, str], host: str, port: str, path: str, before: str
) -> None:
    written = password[0].replace(" ", "")
    text = f"[tcp @ 0x55] opening {before}{scheme}://{user}:{written}@{host}{port}{path}{before}: I/O error, see a@b"
    shown = redact_text(text)
    assert password[1] not in shown
    assert shown.startswith("[tcp @ 0x55] opening ")
    assert shown.endswith(": I/O error, see a@b")


@given(
    SECRETS,
    st.sampled_from(["password", "pwd", "token", "apiKey", "access_token", "X-Amz-Signature", "auth", "p%61ss"]),
)
def test_no_secret_query_value_survives(secret: str, name: str) -> None:
    shown = redact_url(f"https://host/clip.mp4?fps=5&{name}={secret}&size=2")
    assert shown == f"https://host/clip.mp4?fps=5&{name}=***&size=2"
    assert secret not in redact_url(f"https://host/clip.mp4?a=1;{name}={secret};{secret}")


def test_a_password_in_the_path_is_masked_and_a_fragment_left_out() -> None:
    assert redact_url("rtsp://10.0.0.5/live?fps=5#tlJwpbo6") == "rtsp://10.0.0.5/live?fps=5"
    shown = redact_url("rtsp://10.0.0.5:554/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp?real_stream")
    assert shown == "rtsp://10.0.0.5:554/user=admin_password=***?real_stream"


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://10.0.0.5:554/live",
        "https://example.org/@someone/clip.mp4",
        "https://example.org/a%20b.mp4?fps=5&name=a%2Fb",
        "redis://localhost:6379/0",
        "unix:///run/redis.sock?db=1",
        "/videos/a@b.mp4",
        "me@example.org",
        "C:\\videos\\a.mp4",
        "",
    ],
)
def test_what_holds_no_secret_stays(url: str) -> None:
    assert redact_url(url) == url
    assert redact_text(url) == url


def test_how_to_write_a_url_is_still_told() -> None:
    hint = "put user and password into the URL (redis://USER:PASSWORD@HOST)"
    assert redact_text(hint) == hint


def test_several_urls_in_one_text() -> None:
    text = "rtsp://a:b@one/x failed, so did http://c:d@two/y?token=e."
    assert redact_text(text) == "rtsp://***@one/x failed, so did http://***@two/y?token=***"


@given(st.text(max_size=60))
def test_any_text_passes(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
    assert redact_url(redact_url(text)) == redact_url(text)
