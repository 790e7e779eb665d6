"""How the study's pages are served: one look, small requests, no file of the server in reach, past proxies or behind them."""

from __future__ import annotations

import os

from dermstudy.files import InputError

MOST, MOST_WITH_FILES = 64 * 1024, 6 * 1024 * 1024  # bytes of a request: an answer; a picture of 5 MB and its form
COMMON_STYLE = """
footer { display: none !important; }
.gradio-container { max-width: 1180px !important; margin: auto !important; }
.gradio-container, .gradio-container main { width: 100% !important; }
"""


def gradio():
    """The module gradio, imported so that it reports to nobody and reaches its own page past every proxy."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = (
        "*"  # it asks this machine whether the page is up, and nobody else
    )
    import gradio

    return gradio


class Bounded:
    """ASGI middleware: a request's body of more than `most` bytes is answered 413, a form of files 403 unless `files`.

    A refused body is read to its end and dropped, because a client that still sends would not see the answer.
    """

    def __init__(self, app, most: int, files: bool):
        self.app, self.most, self.files = app, most, files

    async def __call__(self, scope, receive, send):
        """Answer one request."""
        from starlette.datastructures import Headers
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refusal = None
        if not self.files and Headers(scope=scope).get("content-type", "").lower().startswith("multipart/"):
            refusal = PlainTextResponse("this page takes no files\n", 403)
        messages, size = [], 0
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
            size += len(messages[-1].get("body", b""))
            if size > self.most:
                refusal = PlainTextResponse(f"a request holds at most {self.most} bytes\n", 413)
            if refusal:
                del messages[:-1]
        if refusal:
            return await refusal(scope, receive, send)

        async def read():
            return messages.pop(0) if messages else await receive()

        return await self.app(scope, read, send)


def serve(
    page,
    port: int,
    host: str,
    say: str,
    css: str = "",
    head: str = "",
    blocked: tuple[str, ...] = (),
    files: bool = False,
    root_path: str = "",
) -> None:
    """Serve a Gradio Blocks until interrupted, after printing `say` with the address. InputError where the port is taken.

    files: the page takes files, up to MOST_WITH_FILES bytes a request in place of MOST. root_path: the prefix under
    which a reverse proxy shows the page and which it takes off, such as /study, or the whole address there.
    """
    from starlette.middleware import Middleware

    gr = gradio()
    prefix = root_path if "://" in root_path else f"/{root_path.strip('/')}"
    most = MOST_WITH_FILES if files else MOST
    plain = gr.themes.Default(
        primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            theme=plain,
            css=COMMON_STYLE + css,
            head=head,
            footer_links=[],
            allowed_paths=[],
            blocked_paths=list(blocked),
            max_file_size="5mb",
            ssr_mode=False,
            root_path=prefix.rstrip("/"),
            app_kwargs={"middleware": [Middleware(Bounded, most=most, files=files)]},
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be served on {host}: choose another with --port") from error
    print(f"serving {say.format(address=f'http://{host}:{port}')}", flush=True)
    page.block_thread()
