"""The drawing library as one script: Vega, Vega-Lite and vega-embed from the installed vl-convert-python.

So its version is pinned with the others, git holds no bundle, and no page needs a network. Bundling takes seconds, so
the script is kept in the user's cache where that can be written to.
"""

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import vl_convert

from qin.runtime.files import atomic_file

VEGA_LITE = "5.21"  # the newest of the major version that the templates' $schema names


def drawing_library() -> str:
    """A script that defines `vegaEmbed`, safe inside a `<script>` element."""
    kept = _cache() / f"vega-lite-{VEGA_LITE}-{version('vl-convert-python')}.js"
    with suppress(OSError):
        return kept.read_text(encoding="utf-8")
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    # Inside of the page's own script element, which these letters would end.
    script = script.replace("</script", r"<\/script")
    if kept.is_absolute():  # an unknown user without HOME has no cache
        with suppress(OSError), atomic_file(kept) as staging:
            staging.write_text(script, encoding="utf-8")
    return script


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "qin"
