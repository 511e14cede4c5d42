"""The error tree.

RetrainError
├── ConfigError (ValueError)        a setting is unknown, missing or out of range
├── BadInput (ValueError)           a file, image, box or argument cannot be used
│   └── Leakage                     a dataset version would have the same thing on both sides of a split
├── NotFound (LookupError)          the named thing does not exist
├── Conflict                        someone else changed it first; re-read and decide again
│   ├── Active                      somebody else holds the lease; wait for it
│   └── LeaseLost                   our fencing token is no longer the newest
├── StorageFull (OSError)           no space; nothing was half-written
├── Cancelled                       somebody asked to stop it; what was stored stays
├── OutOfMemory (MemoryError)       a batch does not fit into memory
├── PostConditionFailed             the step ran, but reading back showed it had no effect
└── Unavailable (ConnectionError)   a server, port or file we need does not answer
"""


class RetrainError(Exception):
    """Root of everything Retrain raises on purpose."""


class ConfigError(RetrainError, ValueError):
    """A setting is unknown, missing or out of range."""


class BadInput(RetrainError, ValueError):
    """A file, image, box or argument cannot be used."""


class Leakage(BadInput):
    """A dataset version would have the same thing on both sides of a split."""


class NotFound(RetrainError, LookupError):
    """The named thing does not exist."""


class Conflict(RetrainError):
    """Someone else changed it first; re-read and decide again."""


class Active(Conflict):
    """Somebody else holds the lease; wait for it."""


class LeaseLost(Conflict):
    """Our fencing token is no longer the newest; stop without writing."""


class StorageFull(RetrainError, OSError):
    """No space left; nothing was half-written."""


class Cancelled(RetrainError):
    """Somebody asked to stop it; what was stored stays."""


class OutOfMemory(RetrainError, MemoryError):
    """A batch does not fit into the memory there is."""


class PostConditionFailed(RetrainError):
    """The step ran, but reading back showed that it had no effect."""


class Unavailable(RetrainError, ConnectionError):
    """A server, port or file that is needed does not answer."""
