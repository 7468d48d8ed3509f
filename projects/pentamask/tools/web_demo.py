"""Try models in the browser: upload a picture, see masks and what goes on inside, download the results.

python -m pentamask.tools.web_demo [--config-file BlendMask/R_50_3x.yaml] [--weights R_50_3x.pth] [--opts KEY VALUE ...]
"""

import argparse
import base64
import ipaddress
import os
import tempfile
from functools import lru_cache
from typing import Any

import numpy as np
from detectron2.utils.logger import setup_logger

from pentamask.common import import_extra
from pentamask.engine.checks import BadInput
from pentamask.engine.command_line import add_config_options, add_debug_flag, describe_error, reported_errors
from pentamask.engine.load_config import find_config_file, overrides_of
from pentamask.model_zoo import list_models
from pentamask.plugin import declared
from pentamask.tools.demo import build_predictor
from pentamask.tools.save_predictions import Saver
from pentamask.visualize.explanation import save_explanation
from pentamask.visualize.predictions import draw_predictions

_OWN_WEIGHTS = "those that the config names"
_NUM_INSTANCES = 3  # that are explained
_SHOWN = 640  # pixels of the longer side of a drawn picture, at least


def get_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description="Try models in the browser.")
    parser.add_argument("--config-file", nargs="+", default=[], metavar="FILE", help="configs to begin the list with")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FILE", help="checkpoints to choose from")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets everybody in")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at")
    add_config_options(parser, "--opts")
    return parser


def build_app(args: argparse.Namespace) -> Any:
    """The page, as `gradio.Blocks`.

    Raises:
        BadInput: a config does not exist.
    """
    gradio = _gradio()
    configs = [*args.config_file, *(name for name in list_models() if name.endswith(".yaml"))]
    for config in args.config_file:
        find_config_file(config)
    weights = [*args.weights, _OWN_WEIGHTS]
    models = _Models(args.opts)

    def run(picture: np.ndarray | None, config: str, chosen: str, threshold: float) -> tuple:
        if config not in configs or (chosen not in weights and not _is_loopback(args.host)):
            raise gradio.Error("Choose from the lists.", print_exception=False)
        try:
            return models.run(picture, config, "" if chosen == _OWN_WEIGHTS else chosen, threshold)
        except Exception as error:  # weights and pictures may be anything
            raise gradio.Error(describe_error(error), print_exception=False) from error

    with gradio.Blocks(title="pentamask", analytics_enabled=False) as app:
        gradio.Markdown("# pentamask\nA picture in, masks out, and what goes on inside the model.")
        with gradio.Row():
            with gradio.Column(scale=1):
                picture = gradio.Image(label="Picture", type="numpy", sources=["upload", "clipboard"])
                config = gradio.Dropdown(configs, value=configs[0], label="Model")
                chosen = gradio.Dropdown(
                    weights,
                    value=weights[0],
                    label="Weights",
                    allow_custom_value=_is_loopback(args.host),  # strangers may not name files
                )
                threshold = gradio.Slider(0, 1, value=0.5, step=0.01, label="Lowest score")
                button = gradio.Button("Run", variant="primary")
            with gradio.Column(scale=2):
                drawn = gradio.Image(label="Masks", interactive=False, buttons=["download", "fullscreen"])
                results = gradio.File(label="Results in COCO's format", interactive=False)
        inside = gradio.HTML(label="Inside the model")
        button.click(run, [picture, config, chosen, threshold], [drawn, inside, results], api_name="run")
    return app


def _gradio() -> Any:
    """gradio, kept from calling home."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return import_extra("gradio", "web")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Models:
    """Runs models by name and keeps the last one loaded."""

    def __init__(self, opts: list[str]) -> None:
        self.opts = opts
        self.load = lru_cache(maxsize=1)(self._load)
        # gradio copies what it shows, one run after the other.
        self.folder = tempfile.TemporaryDirectory(prefix="pentamask_")

    def _load(self, config: str, weights: str) -> tuple:
        named = overrides_of(config, {("MODEL.WEIGHTS", "train.init_checkpoint"): weights})
        options = [*self.opts, *(named if weights else [])]
        return build_predictor(argparse.Namespace(config_file=config, opts=options, confidence_threshold=0.0))

    def run(
        self, picture: np.ndarray | None, config: str, weights: str, threshold: float
    ) -> tuple[np.ndarray, str, str]:
        """The picture with masks, HTML with pictures of the inside, and the path of the results.

        Args:
            picture: (H, W, 3) uint8, RGB.
            config, weights: names of files, "" for the config's own weights.
            threshold: lowest score to show.

        Raises:
            BadInput: there is no picture, or the model cannot be loaded.
        """
        if picture is None:
            raise BadInput("Upload a picture first.")
        predictor, metadata = self.load(config, weights)
        predictor.confidence_threshold = threshold
        image = np.ascontiguousarray(picture[:, :, ::-1])
        predictions = predictor(image)
        results = os.path.join(self.folder.name, "results.json")
        saver = Saver(results)
        saver.add("picture", predictions, metadata)
        saver.finish()
        paths: list[str] = []
        if declared(type(predictor.model), "explain") is not None:
            resized, parts = predictor.explain(image, _NUM_INSTANCES)
            paths = save_explanation(resized, parts, metadata, self.folder.name)
        drawn = draw_predictions(picture, predictions, metadata, scale=max(1.0, _SHOWN / max(picture.shape)))
        return drawn, "".join(map(_as_html, paths)), results


def _as_html(path: str) -> str:
    """A picture within a page."""
    with open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode()
    name = os.path.splitext(os.path.basename(path))[0]
    return f'<img alt="{name}" src="data:image/png;base64,{data}" style="max-width: 100%; margin-bottom: 16px">'


def main(args: argparse.Namespace, *, wait: bool = True) -> Any:
    """Serve the page until the process is interrupted, or, without `wait`, until the app that it returns is closed.

    Raises:
        BadInput: a config does not exist, or the port is taken.
    """
    setup_logger(name="pentamask")
    app = build_app(args)
    theme = _gradio().themes.Default(font=["sans-serif"], font_mono=["monospace"])  # of this machine, none fetched
    if wait:
        print(f"Open http://{args.host}:{args.port} in a browser.", flush=True)
    try:
        app.launch(
            server_name=args.host,
            server_port=args.port,
            theme=theme,
            share=False,
            inbrowser=False,
            prevent_thread_lock=not wait,
            footer_links=[],
            show_error=True,  # of files that gradio cannot read as well
            quiet=True,
        )
    except OSError as error:
        raise BadInput(f"--port {args.port}: {error}") from error
    return app


def cli() -> None:
    """The command line; errors end in one line on stderr and exit status 1."""
    args = add_debug_flag(get_parser(), "web_demo").parse_args()
    with reported_errors("web_demo", debug=args.debug):
        main(args)


if __name__ == "__main__":
    cli()
