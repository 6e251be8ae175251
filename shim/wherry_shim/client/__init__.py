# SPDX-License-Identifier: Apache-2.0
"""The client of `wherry-shim serve`: Client for programs that block, aio.Client for asyncio. Typed, and reconnecting: a server's death is a pause.

    address, again              where the server is; when a call is made again
    types, errors, convert      what is given and taken, and what is refused
    transport                   blocking or asyncio: the only difference
    streams, session            what goes on over a server's death: events, logs, samples; attach and exec
    calls                       every call
    blocking, aio               Client
"""

from wherry_shim.client.blocking import Client as Client
from wherry_shim.client.errors import AlreadyExists as AlreadyExists
from wherry_shim.client.errors import CursorTooOld as CursorTooOld
from wherry_shim.client.errors import DeadlineExceeded as DeadlineExceeded
from wherry_shim.client.errors import FailedPrecondition as FailedPrecondition
from wherry_shim.client.errors import InvalidArgument as InvalidArgument
from wherry_shim.client.errors import NotFound as NotFound
from wherry_shim.client.errors import PermissionDenied as PermissionDenied
from wherry_shim.client.errors import Refused as Refused
from wherry_shim.client.errors import ResourceExhausted as ResourceExhausted
from wherry_shim.client.errors import Unauthenticated as Unauthenticated
from wherry_shim.client.errors import Unavailable as Unavailable
from wherry_shim.client.types import TLS as TLS
from wherry_shim.client.types import Channel as Channel
from wherry_shim.client.types import Completed as Completed
from wherry_shim.client.types import Container as Container
from wherry_shim.client.types import Event as Event
from wherry_shim.client.types import Exec as Exec
from wherry_shim.client.types import ExecState as ExecState
from wherry_shim.client.types import Exit as Exit
from wherry_shim.client.types import Finding as Finding
from wherry_shim.client.types import Health as Health
from wherry_shim.client.types import Mount as Mount
from wherry_shim.client.types import Output as Output
from wherry_shim.client.types import Plan as Plan
from wherry_shim.client.types import Probe as Probe
from wherry_shim.client.types import RestartPolicy as RestartPolicy
from wherry_shim.client.types import Sample as Sample
from wherry_shim.client.types import Status as Status
from wherry_shim.client.types import When as When
