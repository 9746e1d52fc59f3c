"""How the keeper speaks of purchases, to whoever waits for one."""

from __future__ import annotations

#: Types are spelt when they are read: an m6a.large, a c6a.large.
_SPOKEN_WITH_A_VOWEL = "aefhilmnorsx"


def describe_machine(instance_type: str | None) -> str:
    """The type with its article: an m6a.large; where it is not known, a machine."""
    if not instance_type:
        return "a machine"
    article = "an" if instance_type[0] in _SPOKEN_WITH_A_VOWEL else "a"
    return f"{article} {instance_type}"


def describe_purchase(provider: str, instance_type: str | None) -> str:
    """What an admitted run waits for, before anything was bought."""
    who = "Karpenter" if provider == "karpenter" else "the autoscaler"
    return f"no machine yet: {who} is to buy {describe_machine(instance_type)}"
