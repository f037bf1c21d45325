"""What all pages share: settings, ledger, users, templates, the live stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from fastapi import Request
from jinja2 import Environment

from dicom_node.audit import Auditor
from dicom_node.console.live import Live
from dicom_node.console.registry import Page
from dicom_node.console.throttle import LoginThrottle
from dicom_node.console.thumbnails import Thumbnails
from dicom_node.console.trail_check import TrailCheck
from dicom_node.console.trials import Trials
from dicom_node.ledger import Ledger
from dicom_node.ledger.console_users import ConsoleUsers
from dicom_node.ledger.listing import Listing
from dicom_node.ledger.readings import Readings
from dicom_node.settings import SettingsSource

__all__ = ["Console", "console_of"]


@dataclass(frozen=True)
class Console:
    """One console.

    Attributes
    ----------
    settings : SettingsSource
        Call it for the settings in force.
    pages : tuple of Page
        In the order of the navigation.
    """

    settings: SettingsSource
    ledger: Ledger
    users: ConsoleUsers
    listing: Listing
    readings: Readings
    auditor: Auditor
    templates: Environment
    pages: tuple[Page, ...]
    live: Live
    throttle: LoginThrottle
    thumbnails: Thumbnails
    trials: Trials
    trail_check: TrailCheck

    @property
    def base(self) -> str:
        """What stands before every path: read once, the routes are made with it."""
        return cast("str", self.templates.globals["base"])


def console_of(request: Request) -> Console:
    """Return the console that a request is for."""
    return cast("Console", request.app.state.console)
