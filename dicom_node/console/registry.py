"""Which pages there are: every module of :mod:`dicom_node.console.pages` that says so."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from fastapi import APIRouter

__all__ = ["Page", "discover"]


@dataclass(frozen=True)
class Page:
    """What a module of ``pages`` calls ``PAGE``.

    Attributes
    ----------
    router : APIRouter
        Its routes. Everybody who is logged in may use them; those that change something depend on
        :func:`dicom_node.console.access.require_admin` besides.
    title : str
        In the navigation; empty: it does not stand there.
    path : str
        Where the navigation leads to.
    order : int
        Of the navigation.
    public : bool
        Whether nobody need be logged in.
    admin : bool
        Whether it is for administrators only, to look at as well.
    """

    router: APIRouter
    title: str = ""
    path: str = ""
    order: int = 100
    public: bool = False
    admin: bool = False


def discover() -> tuple[Page, ...]:
    """Return all pages in the order of the navigation."""
    from dicom_node.console import pages

    found = []
    for module in pkgutil.iter_modules(pages.__path__):
        page = getattr(importlib.import_module(f"{pages.__name__}.{module.name}"), "PAGE", None)
        if isinstance(page, Page):
            found.append(page)
    return tuple(sorted(found, key=lambda page: (page.order, page.title)))
