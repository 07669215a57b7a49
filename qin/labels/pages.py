"""The report and the model card of several labels: those of each, one below the other, in one file."""

import html
import re
from collections.abc import Mapping

# Of the page that qin/report/report.html is filled to: where a report begins and ends, and what names its parts.
_BODY, _LIBRARY = "<body>\n", "</section>\n<script>\n"
_TITLE = "<h1>Report of the run</h1>"
_NAMES = re.compile(r'(?<= )(id="spec-|id="|href="#|data-plot=")(?=[^"<>]*")')
_CARD = "# Model card"


def joined_pages(pages: Mapping[str, str]) -> str:
    """One page of the reports of several labels, with the drawing library once.

    Args:
        pages: The page of each label.

    Raises:
        ValueError: If one is not laid out as a report.
    """
    head, scripts, bodies = "", "", []
    for number, (label, page) in enumerate(pages.items(), start=1):
        head, begin, rest = page.partition(_BODY)
        body, end, scripts = rest.partition(_LIBRARY)
        if not begin or not end or _TITLE not in body:
            raise ValueError("a report's page must have the parts of qin/report/report.html")
        name = html.escape(label)
        # Ids get the label's number, and so does what refers to them, or links of one report would lead into another.
        body = _NAMES.sub(rf"\1l{number}-", body)
        bodies.append(body.replace(_TITLE, f'<h1 id="label{number}">Report of the run: {name}</h1>', 1))
    links = "".join(
        f'<a href="#label{number}">{html.escape(label)}</a>\n' for number, label in enumerate(pages, start=1)
    )
    joined = "</section>\n".join(bodies)
    return f"{head}{_BODY}<nav>\n{links}</nav>\n{joined}{_LIBRARY}{scripts}"


def joined_cards(cards: Mapping[str, str]) -> str:
    """One file of the model cards of several labels."""
    return "\n".join(card.replace(_CARD, f"{_CARD}: {label}", 1) for label, card in cards.items())
