"""Say whether a part of the node makes progress, by the word of the exporter: exit 0 or 1.

python healthy.py [FINDING] [--url http://metrics:9464]

Without FINDING: whether the exporter answers. With one: what ``/healthz`` finds of it, which is
``listen``, ``reconcile``, ``analysis`` (ready work is taken), ``delivery``, ``ledger`` or ``disk``.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 8.0


def findings(url: str) -> dict[str, tuple[bool, str]]:
    """Return what the exporter at `url` finds: name → whether it is well, and in words.

    Raises
    ------
    OSError
        It does not answer.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/healthz", timeout=_TIMEOUT_S) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:  # 503: something is not well, and the body says what
        body = error.read()
    try:
        told = json.loads(body)["findings"]
    except (ValueError, KeyError) as error:
        raise OSError("the answer is none of the exporter") from error
    return {finding["name"]: (finding["ok"], finding["words"]) for finding in told}


def main() -> int:
    """Ask, say it in one line, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("finding", nargs="?")
    parser.add_argument("--url", default="")
    arguments = parser.parse_args()
    default = "http://metrics:9464" if arguments.finding else "http://127.0.0.1:9464"
    try:
        found = findings(arguments.url or default)
    except OSError as error:
        sys.stdout.write(f"the exporter does not answer: {error}\n")
        return 1
    if arguments.finding is None:
        sys.stdout.write("the exporter answers\n")
        return 0
    if arguments.finding not in found:
        # Without a ledger there is nothing to find: say what is wrong with that.
        sys.stdout.write(f"nothing is known of {arguments.finding}: {found}\n")
        return 1
    ok, words = found[arguments.finding]
    sys.stdout.write(f"{arguments.finding}: {words}\n")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
