"""Dataset versions: immutable manifests and packs under Git and DVC."""
