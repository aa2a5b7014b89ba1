"""``/livez``, ``/readyz`` and ``/metrics`` of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from streamfer.serve.board import Board
from streamfer.serve.metrics import Metrics

if TYPE_CHECKING:
    from streamfer.api import Session


def health_routes(session: Session, board: Board) -> list[Route]:
    """Return what answers for a session's run, whose events ``board`` takes."""
    metrics = Metrics(session, board)

    async def live(_: Request) -> Response:
        """Frames move, or it is known why not; only then is a restart of no use."""
        stuck = board.stuck()
        states = {source: known.state for source, known in board.standings().items()}
        return JSONResponse({"sources": states, "stuck": stuck}, 503 if stuck else 200)

    async def ready(_: Request) -> Response:
        """The models are loaded, and Redis takes what is found."""
        run = session.run
        reasons = [] if run and run.pipeline else ["the models are loading, or the run is at its end"]
        if run and run.outlet.delivery and run.outlet.delivery.trouble:
            reasons.append(run.outlet.delivery.trouble)
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def numbers(_: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return [Route("/livez", live), Route("/readyz", ready), Route("/metrics", numbers)]
