"""Plain uvicorn and FastAPI, doing nothing: what the endpoint's no-op is held against."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Text(BaseModel):
    text: str


def app() -> FastAPI:
    """`/noop` answers without a look at the request; `/echo` validates and answers what the echo plugin does."""
    server = FastAPI()

    @server.post("/noop")
    async def noop() -> dict[str, str]:
        return {"text": "ready"}

    @server.post("/echo")
    async def echo(text: Text) -> Text:
        return text

    return server


class Plain:
    """One uvicorn worker on a free port of loopback, access log off; uvloop and httptools, which uvicorn picks."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        config = uvicorn.Config(app(), log_level="warning", access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("uvicorn ended before it served")
            time.sleep(0.01)

    def address(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"
