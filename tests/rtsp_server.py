"""A real RTSP server for tests, run by the system's own python3 (Debian's gi bindings) as a program of its own.

    /usr/bin/python3 tests/rtsp_server.py --port 0 [--user u --password p] [--frames N] [--file clip.mp4]

Mounts ``/live`` (a moving ball, or ``--file`` with H.264 in mp4, played in real time). Prints ``ready PORT`` once
it listens, and ends when its standard input closes, so that it cannot outlive the test that started it.
"""

from __future__ import annotations

import argparse
import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402  (the versions must be chosen first)

ROLE = "viewer"
ELEMENTS = ("videotestsrc", "x264enc", "rtph264pay", "qtdemux", "h264parse")


def launch_line(options: argparse.Namespace) -> str:
    if options.file:
        return (
            f'( filesrc location="{options.file}" ! qtdemux ! h264parse config-interval=-1 '
            "! rtph264pay name=pay0 pt=96 )"
        )
    # The colour format is pinned: left free, encoders pick one that not every client decodes.
    return (
        f"( videotestsrc is-live=true pattern=ball num-buffers={options.frames} "
        f"! video/x-raw,format=I420,width={options.width},height={options.height},framerate={options.fps}/1 "
        f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={options.fps} bitrate=500 "
        "! rtph264pay name=pay0 pt=96 config-interval=-1 )"
    )


def protect(
    server: GstRtspServer.RTSPServer, factory: GstRtspServer.RTSPMediaFactory, user: str, password: str, digest: bool
) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    if digest:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role(ROLE, "media.factory.access", True)
    permissions.add_permission_for_role(ROLE, "media.factory.construct", True)
    factory.set_permissions(permissions)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--height", type=int, default=120)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--frames", type=int, default=-1)
    parser.add_argument("--file", default="")
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--digest", action="store_true", help="the password is proven, not sent")
    parser.add_argument("--check", action="store_true", help="only say which GStreamer elements are missing")
    options = parser.parse_args()

    Gst.init(None)
    if options.check:
        missing = [name for name in ELEMENTS if Gst.ElementFactory.find(name) is None]
        sys.exit(f"GStreamer lacks {', '.join(missing)}" if missing else 0)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch_line(options))
    factory.set_shared(not options.file and options.frames < 0)
    if options.user:
        protect(server, factory, options.user, options.password, options.digest)
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        sys.exit(f"port {options.port} is taken")
    threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
    print("ready", server.get_bound_port(), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
