"""Everything that this toolkit raises on purpose.

SafeRedirError
├── InputError            what the caller asked for cannot be done (also a ValueError)
│   ├── CheckpointError       a checkpoint cannot be used (saferedir.checkpoint)
│   └── SchedulerError        a sampler or an option of it cannot be honoured (runtime.samplers.options)
├── EngineError           the built engines cannot be used
│   ├── ManifestError         manifest.json is missing, unreadable, or lacks what is asked of it (a guard, say)
│   ├── SignatureError        the engines are not signed by a trusted key
│   ├── DigestError           an engine file is missing or is not the one that was built
│   ├── BackendError          the backend is not installed, or refused an engine
│   ├── ParityError           an engine does not compute what PyTorch computes
│   ├── CanaryError           a guard judges a canary wrongly, or not as at its build
│   └── DecisionError         quantised engines decide otherwise than float32 ones in whole runs
├── PlanError             TensorRT cannot read or build a network (export.tensorrt.plan_builder)
├── ContestError          a peer cannot take part in a benchmark (benchmarks.peers.contest)
├── ServingError          what a server answers in place of a picture, with an HTTP status (runtime.serving.errors)
│   ├── ForbiddenError        the operator's limits do not allow it
│   ├── AuthenticationError   no API key was given, or none that the server knows
│   ├── TooLargeError         a request's body is larger than the operator allows
│   ├── RetryError            refused now, with the seconds after which it may be asked again
│   │   ├── QueueFullError        as many images wait as the operator allows
│   │   └── RateLimitError        this key has asked as often as the operator allows
│   ├── NotReadyError         the server starts, drains, or works no more until an operator acts
│   ├── AuditError            the record that the operator requires could not be written
│   └── DeadlineError         the request was not done in the time that the operator allows
└── NonFiniteError        a network returned what none may, as NaN; the pictures concerned are withheld
Abandoned                 nobody waits for a server's batch any more; its engine thread catches it (runtime.serving.worker)
GivenUp                   engines came back after they were given up; the engine thread catches it (runtime.serving.watchdog)
CallerLeft                a server's caller is gone; nobody is left to be answered (runtime.serving.middleware)

`saferedir.cli` turns each SafeRedirError, and OSError, into one line and an exit status.
"""

from __future__ import annotations


class SafeRedirError(Exception):
    """Base class; its text is one clear message for the person at the keyboard."""


class InputError(SafeRedirError, ValueError):
    """What the caller asked for cannot be done."""


class EngineError(SafeRedirError):
    """The built engines cannot be used."""


class ManifestError(EngineError):
    """manifest.json is missing, unreadable, or lacks what is asked of it."""


class SignatureError(EngineError):
    """The engines are not signed by a trusted key."""


class DigestError(EngineError):
    """An engine file is missing or is not the one that was built."""


class BackendError(EngineError):
    """The backend is not installed, or refused an engine."""


class ParityError(EngineError):
    """An engine does not compute what PyTorch computes."""


class CanaryError(EngineError):
    """A guard judges a canary wrongly, or not as at its build."""


class DecisionError(EngineError):
    """Quantised engines decide otherwise than float32 ones in whole runs."""


class NonFiniteError(SafeRedirError):
    """A network returned NaN or infinity, or a guard what its rule cannot give.

    `result` holds the other pictures of the batch and every report.
    """

    def __init__(self, message: str, result: object = None) -> None:
        super().__init__(message)
        self.result = result
