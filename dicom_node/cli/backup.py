"""``m3lung backup`` and ``m3lung restore``: a node saved while it works, and put back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dicom_node.audit import Auditor
from dicom_node.backup import Images, Manifest, check, read_config, restore, save
from dicom_node.cli.terminal import (
    EXIT_FAILED,
    ConfigOption,
    JsonOption,
    err,
    out,
    print_json,
    progress_bar,
    settings_source,
)
from dicom_node.errors import ConfigurationError
from dicom_node.node_ledger import open_node_ledger
from dicom_node.settings import find_config, load_settings

__all__ = ["register"]

_MISSING_SHOWN = 5


def backup(
    folder: Annotated[Path, typer.Option("--out", help="A new folder, best on another disk.")],
    images: Annotated[
        Images,
        typer.Option(help="Received images: what unfinished work needs, all, or none."),
    ] = Images.UNFINISHED,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Save this node into a folder while it works.

    Ledger, configuration and its history, audit trail, results and images, with a digest of every
    file. Keys, certificates and the model bundle are not part of it. Guard it as the node itself:
    it names patients.

    Example: m3lung backup --out /backup/2026-03-05
    """
    source = settings_source(config)
    settings = source()
    with open_node_ledger(settings) as ledger, progress_bar(json) as progress:
        saved = save(
            settings, ledger, folder, document=source.path, images=images, progress=progress
        )
    Auditor(settings, "command").user_did(f"backup written, images: {images}")
    if json:
        print_json({**asdict(saved.manifest), "missing_files": saved.missing})
    else:
        _tell(f"{folder}: saved", saved.manifest)
        out.print(f"sha256 of its list: {saved.manifest.sums_sha256}", highlight=False)
    if saved.missing:
        err.print(
            f"[red]{len(saved.missing)} files that the ledger names are not there; the backup "
            "holds the rest:[/]",
            *saved.missing[:_MISSING_SHOWN],
            sep="\n  ",
            highlight=False,
        )
        raise typer.Exit(EXIT_FAILED)


def restore_verb(
    folder: Annotated[Path, typer.Argument(help="What `m3lung backup` wrote.", show_default=False)],
    only_check: Annotated[
        bool, typer.Option("--check", help="Only read the backup and compare its digests.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Put a backup where no node is yet, and bring its ledger up to date.

    With --config FILE where there is no such file, the saved configuration is put there first.
    Stop the old node before you start this one: both would send.

    Example: m3lung restore /backup/2026-03-05 --config /etc/m3lung/node.toml
    """
    if only_check:
        with progress_bar(json) as progress:
            manifest, _ = check(folder, progress)
        _answer(json, f"{folder}: whole", manifest)
        return
    document = _document(folder, config)
    settings = load_settings(document)
    with progress_bar(json) as progress:
        restored = restore(settings, folder, progress=progress)
    _answer(
        json,
        f"{settings.root}: restored",
        restored.manifest,
        absent=restored.absent,
        state_dir=str(settings.root),
    )
    if restored.absent and not json:
        out.print(
            f"{restored.absent} images are not in the backup and count as removed: sent again, "
            "they are held again.",
            highlight=False,
        )
    bundle = settings.analysis.bundle
    if bundle is not None and not settings.analysis.bundle_folder.is_dir():
        err.print(f"[yellow]analysis.bundle: {bundle} is not here: bring it before you start[/]")


def _document(folder: Path, config: Path | None) -> Path:
    """Return the configuration to restore by; put the saved one where a new name is given."""
    if config is not None and not config.exists():
        saved = read_config(folder)
        try:
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_bytes(saved)
            config.chmod(0o600)
        except OSError as error:
            raise ConfigurationError(f"config: {config}: {error.strerror}") from error
        return config
    found = find_config(config)
    if found is None:
        raise ConfigurationError(
            "config: name the node's configuration; a file that is not there is made from the "
            "backup"
        )
    return found


def _answer(json: bool, head: str, manifest: Manifest, **more: object) -> None:
    if json:
        print_json({**asdict(manifest), **more})
    else:
        _tell(head, manifest)


def _tell(head: str, manifest: Manifest) -> None:
    out.print(
        f"{head}; made at {manifest.made_at} by version {manifest.software}: "
        f"{manifest.series} series, {manifest.files} files, {manifest.size_bytes / 1e6:.1f} MB, "
        f"images: {manifest.images}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command(rich_help_panel="Administration")(backup)
    app.command("restore", rich_help_panel="Administration")(restore_verb)
