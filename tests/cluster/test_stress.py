"""Many short runs on few machines: one at a time on each, and nothing bought that was not used."""
