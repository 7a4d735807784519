"""`python -m brushjax`: the commands that need no config file."""

from collections.abc import Sequence

import tyro

from brushjax.inference.command import InpaintArguments, inpaint_command


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `brushjax inpaint ...`; arguments are the process's own by default."""
    app = tyro.extras.SubcommandApp()

    @app.command
    def inpaint(arguments: tyro.conf.OmitArgPrefixes[InpaintArguments]) -> None:
        """Paint the white part of a mask in a picture according to a prompt."""
        inpaint_command(arguments)

    app.cli(prog="brushjax", args=arguments)


if __name__ == "__main__":
    main()
