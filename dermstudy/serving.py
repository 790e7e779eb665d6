"""How the study's pages are served: one look, no file of the server in reach, a plain message where a port is taken."""

from __future__ import annotations

from dermstudy.files import InputError

COMMON_STYLE = """
footer { display: none !important; }
.gradio-container { max-width: 1180px !important; margin: auto !important; }
.gradio-container, .gradio-container main { width: 100% !important; }
"""


def serve(page, port: int, host: str, say: str, css: str = "", head: str = "", blocked: tuple[str, ...] = ()) -> None:
    """Serve a Gradio Blocks until interrupted, after printing `say` with the address. InputError where the port is taken."""
    import gradio as gr

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
            prevent_thread_lock=True,
        )
    except (OSError, OverflowError) as error:
        raise InputError(f"port {port} cannot be served on {host}: choose another with --port") from error
    print(f"serving {say.format(address=f'http://{host}:{port}')}", flush=True)
    page.block_thread()
