"""``python -m dicom_node`` is ``m3lung``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; let a running node answer what it can at once."""
    if sys.argv[1:2] == ["status"]:
        from dicom_node.doorbell import ask_status

        answered = ask_status(sys.argv[2:])
        if answered is not None:
            code, text = answered
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
            except BrokenPipeError:
                sys.stderr.close()
                code = 1
            sys.exit(code)
    from dicom_node.cli import main as run

    run()


if __name__ == "__main__":
    main()
