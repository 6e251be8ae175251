# SPDX-License-Identifier: Apache-2.0
import datetime

from wherry_shim.proto import containerd_types_pb2 as _containerd_types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    CREATING: _ClassVar[Status]
    CREATED: _ClassVar[Status]
    RUNNING: _ClassVar[Status]
    PAUSED: _ClassVar[Status]
    STOPPED: _ClassVar[Status]
    WAITING: _ClassVar[Status]

class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_UNSPECIFIED: _ClassVar[Health]
    STARTING: _ClassVar[Health]
    HEALTHY: _ClassVar[Health]
    UNHEALTHY: _ClassVar[Health]

class Channel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_UNSPECIFIED: _ClassVar[Channel]
    STDOUT: _ClassVar[Channel]
    STDERR: _ClassVar[Channel]
STATUS_UNSPECIFIED: Status
CREATING: Status
CREATED: Status
RUNNING: Status
PAUSED: Status
STOPPED: Status
WAITING: Status
HEALTH_UNSPECIFIED: Health
STARTING: Health
HEALTHY: Health
UNHEALTHY: Health
CHANNEL_UNSPECIFIED: Channel
STDOUT: Channel
STDERR: Channel

class CreateRequest(_message.Message):
    __slots__ = ("id", "bundle", "config", "rootfs", "stdin", "restart", "probe", "labels", "log", "start", "auto_remove")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ROOTFS_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    AUTO_REMOVE_FIELD_NUMBER: _ClassVar[int]
    id: str
    bundle: str
    config: bytes
    rootfs: _containers.RepeatedCompositeFieldContainer[_containerd_types_pb2.Mount]
    stdin: bool
    restart: RestartPolicy
    probe: Probe
    labels: _containers.ScalarMap[str, str]
    log: LogLimit
    start: bool
    auto_remove: bool
    def __init__(self, id: _Optional[str] = ..., bundle: _Optional[str] = ..., config: _Optional[bytes] = ..., rootfs: _Optional[_Iterable[_Union[_containerd_types_pb2.Mount, _Mapping]]] = ..., stdin: _Optional[bool] = ..., restart: _Optional[_Union[RestartPolicy, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ..., log: _Optional[_Union[LogLimit, _Mapping]] = ..., start: _Optional[bool] = ..., auto_remove: _Optional[bool] = ...) -> None: ...

class RestartPolicy(_message.Message):
    __slots__ = ("when", "limit", "backoff", "backoff_limit", "reset_after")
    class When(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        NO: _ClassVar[RestartPolicy.When]
        ON_FAILURE: _ClassVar[RestartPolicy.When]
        ALWAYS: _ClassVar[RestartPolicy.When]
    NO: RestartPolicy.When
    ON_FAILURE: RestartPolicy.When
    ALWAYS: RestartPolicy.When
    WHEN_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RESET_AFTER_FIELD_NUMBER: _ClassVar[int]
    when: RestartPolicy.When
    limit: int
    backoff: _duration_pb2.Duration
    backoff_limit: _duration_pb2.Duration
    reset_after: _duration_pb2.Duration
    def __init__(self, when: _Optional[_Union[RestartPolicy.When, str]] = ..., limit: _Optional[int] = ..., backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff_limit: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reset_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("args", "interval", "timeout", "start_period", "retries", "restart")
    ARGS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    START_PERIOD_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    interval: _duration_pb2.Duration
    timeout: _duration_pb2.Duration
    start_period: _duration_pb2.Duration
    retries: int
    restart: bool
    def __init__(self, args: _Optional[_Iterable[str]] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., start_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retries: _Optional[int] = ..., restart: _Optional[bool] = ...) -> None: ...

class ProbeResult(_message.Message):
    __slots__ = ("began_at", "took", "status", "error")
    BEGAN_AT_FIELD_NUMBER: _ClassVar[int]
    TOOK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    began_at: _timestamp_pb2.Timestamp
    took: _duration_pb2.Duration
    status: int
    error: str
    def __init__(self, began_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., took: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., status: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class LogLimit(_message.Message):
    __slots__ = ("bytes",)
    BYTES_FIELD_NUMBER: _ClassVar[int]
    bytes: int
    def __init__(self, bytes: _Optional[int] = ...) -> None: ...

class Container(_message.Message):
    __slots__ = ("id", "bundle", "status", "pid", "created_at", "started_at", "restart_at", "run", "exit", "restart", "restarts", "probe", "health", "labels", "terminal", "stdin", "execs", "owner", "auto_remove", "args", "exits", "config", "last_probe", "probe_failures")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    RESTART_AT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    EXECS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    AUTO_REMOVE_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    LAST_PROBE_FIELD_NUMBER: _ClassVar[int]
    PROBE_FAILURES_FIELD_NUMBER: _ClassVar[int]
    id: str
    bundle: str
    status: Status
    pid: int
    created_at: _timestamp_pb2.Timestamp
    started_at: _timestamp_pb2.Timestamp
    restart_at: _timestamp_pb2.Timestamp
    run: int
    exit: Exit
    restart: RestartPolicy
    restarts: int
    probe: Probe
    health: Health
    labels: _containers.ScalarMap[str, str]
    terminal: bool
    stdin: bool
    execs: _containers.RepeatedCompositeFieldContainer[ExecState]
    owner: str
    auto_remove: bool
    args: _containers.RepeatedScalarFieldContainer[str]
    exits: _containers.RepeatedCompositeFieldContainer[Exit]
    config: bytes
    last_probe: ProbeResult
    probe_failures: int
    def __init__(self, id: _Optional[str] = ..., bundle: _Optional[str] = ..., status: _Optional[_Union[Status, str]] = ..., pid: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., restart_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., run: _Optional[int] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., restart: _Optional[_Union[RestartPolicy, _Mapping]] = ..., restarts: _Optional[int] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., health: _Optional[_Union[Health, str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., terminal: _Optional[bool] = ..., stdin: _Optional[bool] = ..., execs: _Optional[_Iterable[_Union[ExecState, _Mapping]]] = ..., owner: _Optional[str] = ..., auto_remove: _Optional[bool] = ..., args: _Optional[_Iterable[str]] = ..., exits: _Optional[_Iterable[_Union[Exit, _Mapping]]] = ..., config: _Optional[bytes] = ..., last_probe: _Optional[_Union[ProbeResult, _Mapping]] = ..., probe_failures: _Optional[int] = ...) -> None: ...

class ExecState(_message.Message):
    __slots__ = ("exec_id", "pid", "status", "exit", "args", "terminal")
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    TERMINAL_FIELD_NUMBER: _ClassVar[int]
    exec_id: str
    pid: int
    status: Status
    exit: Exit
    args: _containers.RepeatedScalarFieldContainer[str]
    terminal: bool
    def __init__(self, exec_id: _Optional[str] = ..., pid: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., args: _Optional[_Iterable[str]] = ..., terminal: _Optional[bool] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("run", "status", "signal", "oom", "started_at", "exited_at", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    OOM_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    EXITED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: int
    status: int
    signal: int
    oom: bool
    started_at: _timestamp_pb2.Timestamp
    exited_at: _timestamp_pb2.Timestamp
    reason: str
    def __init__(self, run: _Optional[int] = ..., status: _Optional[int] = ..., signal: _Optional[int] = ..., oom: _Optional[bool] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., exited_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("id", "run")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    id: str
    run: int
    def __init__(self, id: _Optional[str] = ..., run: _Optional[int] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("id", "grace", "signal")
    ID_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    id: str
    grace: _duration_pb2.Duration
    signal: int
    def __init__(self, id: _Optional[str] = ..., grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., signal: _Optional[int] = ...) -> None: ...

class KillRequest(_message.Message):
    __slots__ = ("id", "exec_id", "signal", "all")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec_id: str
    signal: int
    all: bool
    def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ..., signal: _Optional[int] = ..., all: _Optional[bool] = ...) -> None: ...

class KillResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("id", "resources", "restart", "probe", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESTART_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    id: str
    resources: bytes
    restart: RestartPolicy
    probe: Probe
    labels: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., resources: _Optional[bytes] = ..., restart: _Optional[_Union[RestartPolicy, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("id", "force")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    force: bool
    def __init__(self, id: _Optional[str] = ..., force: _Optional[bool] = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("exit",)
    EXIT_FIELD_NUMBER: _ClassVar[int]
    exit: Exit
    def __init__(self, exit: _Optional[_Union[Exit, _Mapping]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("id", "config")
    ID_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    id: str
    config: bool
    def __init__(self, id: _Optional[str] = ..., config: _Optional[bool] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("labels", "statuses", "foreign")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    FOREIGN_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    statuses: _containers.RepeatedScalarFieldContainer[Status]
    foreign: bool
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ..., statuses: _Optional[_Iterable[_Union[Status, str]]] = ..., foreign: _Optional[bool] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("containers",)
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[Container]
    def __init__(self, containers: _Optional[_Iterable[_Union[Container, _Mapping]]] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ("id", "exec_id", "condition", "run")
    class For(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EXIT: _ClassVar[WaitRequest.For]
        STOPPED: _ClassVar[WaitRequest.For]
        REMOVED: _ClassVar[WaitRequest.For]
        HEALTHY: _ClassVar[WaitRequest.For]
    EXIT: WaitRequest.For
    STOPPED: WaitRequest.For
    REMOVED: WaitRequest.For
    HEALTHY: WaitRequest.For
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec_id: str
    condition: WaitRequest.For
    run: int
    def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ..., condition: _Optional[_Union[WaitRequest.For, str]] = ..., run: _Optional[int] = ...) -> None: ...

class WaitResponse(_message.Message):
    __slots__ = ("exit", "container")
    EXIT_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    exit: Exit
    container: Container
    def __init__(self, exit: _Optional[_Union[Exit, _Mapping]] = ..., container: _Optional[_Union[Container, _Mapping]] = ...) -> None: ...

class ProcessesRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ProcessesResponse(_message.Message):
    __slots__ = ("processes",)
    class Process(_message.Message):
        __slots__ = ("pid", "exec_id")
        PID_FIELD_NUMBER: _ClassVar[int]
        EXEC_ID_FIELD_NUMBER: _ClassVar[int]
        pid: int
        exec_id: str
        def __init__(self, pid: _Optional[int] = ..., exec_id: _Optional[str] = ...) -> None: ...
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    processes: _containers.RepeatedCompositeFieldContainer[ProcessesResponse.Process]
    def __init__(self, processes: _Optional[_Iterable[_Union[ProcessesResponse.Process, _Mapping]]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("cursor", "from_oldest", "ids", "types", "no_follow")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    FROM_OLDEST_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    NO_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    from_oldest: bool
    ids: _containers.RepeatedScalarFieldContainer[str]
    types: _containers.RepeatedScalarFieldContainer[str]
    no_follow: bool
    def __init__(self, cursor: _Optional[str] = ..., from_oldest: _Optional[bool] = ..., ids: _Optional[_Iterable[str]] = ..., types: _Optional[_Iterable[str]] = ..., no_follow: _Optional[bool] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("cursor", "time", "id", "type", "run", "exec_id", "pid", "exit", "health", "restart_at", "trace")
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    RESTART_AT_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    cursor: str
    time: _timestamp_pb2.Timestamp
    id: str
    type: str
    run: int
    exec_id: str
    pid: int
    exit: Exit
    health: Health
    restart_at: _timestamp_pb2.Timestamp
    trace: str
    def __init__(self, cursor: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., id: _Optional[str] = ..., type: _Optional[str] = ..., run: _Optional[int] = ..., exec_id: _Optional[str] = ..., pid: _Optional[int] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., health: _Optional[_Union[Health, str]] = ..., restart_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trace: _Optional[str] = ...) -> None: ...

class LogsRequest(_message.Message):
    __slots__ = ("id", "follow", "stdout_offset", "stderr_offset", "tail", "no_stdout", "no_stderr")
    ID_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    STDOUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    STDERR_OFFSET_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    NO_STDOUT_FIELD_NUMBER: _ClassVar[int]
    NO_STDERR_FIELD_NUMBER: _ClassVar[int]
    id: str
    follow: bool
    stdout_offset: int
    stderr_offset: int
    tail: int
    no_stdout: bool
    no_stderr: bool
    def __init__(self, id: _Optional[str] = ..., follow: _Optional[bool] = ..., stdout_offset: _Optional[int] = ..., stderr_offset: _Optional[int] = ..., tail: _Optional[int] = ..., no_stdout: _Optional[bool] = ..., no_stderr: _Optional[bool] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("channel", "offset", "data")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    channel: Channel
    offset: int
    data: bytes
    def __init__(self, channel: _Optional[_Union[Channel, str]] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("open", "stdin", "close_stdin", "resize", "signal")
    class Open(_message.Message):
        __slots__ = ("id", "stdout_offset", "stderr_offset", "follow", "run")
        ID_FIELD_NUMBER: _ClassVar[int]
        STDOUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
        STDERR_OFFSET_FIELD_NUMBER: _ClassVar[int]
        FOLLOW_FIELD_NUMBER: _ClassVar[int]
        RUN_FIELD_NUMBER: _ClassVar[int]
        id: str
        stdout_offset: int
        stderr_offset: int
        follow: bool
        run: int
        def __init__(self, id: _Optional[str] = ..., stdout_offset: _Optional[int] = ..., stderr_offset: _Optional[int] = ..., follow: _Optional[bool] = ..., run: _Optional[int] = ...) -> None: ...
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    CLOSE_STDIN_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    open: AttachRequest.Open
    stdin: bytes
    close_stdin: bool
    resize: Size
    signal: int
    def __init__(self, open: _Optional[_Union[AttachRequest.Open, _Mapping]] = ..., stdin: _Optional[bytes] = ..., close_stdin: _Optional[bool] = ..., resize: _Optional[_Union[Size, _Mapping]] = ..., signal: _Optional[int] = ...) -> None: ...

class ExecRequest(_message.Message):
    __slots__ = ("start", "resume", "stdin", "close_stdin", "resize", "signal")
    class Start(_message.Message):
        __slots__ = ("id", "exec_id", "process", "args", "env", "cwd", "user", "terminal", "stdin", "size", "timeout", "detach")
        ID_FIELD_NUMBER: _ClassVar[int]
        EXEC_ID_FIELD_NUMBER: _ClassVar[int]
        PROCESS_FIELD_NUMBER: _ClassVar[int]
        ARGS_FIELD_NUMBER: _ClassVar[int]
        ENV_FIELD_NUMBER: _ClassVar[int]
        CWD_FIELD_NUMBER: _ClassVar[int]
        USER_FIELD_NUMBER: _ClassVar[int]
        TERMINAL_FIELD_NUMBER: _ClassVar[int]
        STDIN_FIELD_NUMBER: _ClassVar[int]
        SIZE_FIELD_NUMBER: _ClassVar[int]
        TIMEOUT_FIELD_NUMBER: _ClassVar[int]
        DETACH_FIELD_NUMBER: _ClassVar[int]
        id: str
        exec_id: str
        process: bytes
        args: _containers.RepeatedScalarFieldContainer[str]
        env: _containers.RepeatedScalarFieldContainer[str]
        cwd: str
        user: str
        terminal: bool
        stdin: bool
        size: Size
        timeout: _duration_pb2.Duration
        detach: bool
        def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ..., process: _Optional[bytes] = ..., args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., cwd: _Optional[str] = ..., user: _Optional[str] = ..., terminal: _Optional[bool] = ..., stdin: _Optional[bool] = ..., size: _Optional[_Union[Size, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., detach: _Optional[bool] = ...) -> None: ...
    class Resume(_message.Message):
        __slots__ = ("id", "exec_id", "stdout_offset", "stderr_offset")
        ID_FIELD_NUMBER: _ClassVar[int]
        EXEC_ID_FIELD_NUMBER: _ClassVar[int]
        STDOUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
        STDERR_OFFSET_FIELD_NUMBER: _ClassVar[int]
        id: str
        exec_id: str
        stdout_offset: int
        stderr_offset: int
        def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ..., stdout_offset: _Optional[int] = ..., stderr_offset: _Optional[int] = ...) -> None: ...
    START_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    CLOSE_STDIN_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    start: ExecRequest.Start
    resume: ExecRequest.Resume
    stdin: bytes
    close_stdin: bool
    resize: Size
    signal: int
    def __init__(self, start: _Optional[_Union[ExecRequest.Start, _Mapping]] = ..., resume: _Optional[_Union[ExecRequest.Resume, _Mapping]] = ..., stdin: _Optional[bytes] = ..., close_stdin: _Optional[bool] = ..., resize: _Optional[_Union[Size, _Mapping]] = ..., signal: _Optional[int] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class ProcessOutput(_message.Message):
    __slots__ = ("started", "output", "exit", "stdin_offset")
    class Started(_message.Message):
        __slots__ = ("exec_id", "pid", "stdout_offset", "stderr_offset", "stdin_offset", "run")
        EXEC_ID_FIELD_NUMBER: _ClassVar[int]
        PID_FIELD_NUMBER: _ClassVar[int]
        STDOUT_OFFSET_FIELD_NUMBER: _ClassVar[int]
        STDERR_OFFSET_FIELD_NUMBER: _ClassVar[int]
        STDIN_OFFSET_FIELD_NUMBER: _ClassVar[int]
        RUN_FIELD_NUMBER: _ClassVar[int]
        exec_id: str
        pid: int
        stdout_offset: int
        stderr_offset: int
        stdin_offset: int
        run: int
        def __init__(self, exec_id: _Optional[str] = ..., pid: _Optional[int] = ..., stdout_offset: _Optional[int] = ..., stderr_offset: _Optional[int] = ..., stdin_offset: _Optional[int] = ..., run: _Optional[int] = ...) -> None: ...
    STARTED_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    STDIN_OFFSET_FIELD_NUMBER: _ClassVar[int]
    started: ProcessOutput.Started
    output: Output
    exit: Exit
    stdin_offset: int
    def __init__(self, started: _Optional[_Union[ProcessOutput.Started, _Mapping]] = ..., output: _Optional[_Union[Output, _Mapping]] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ..., stdin_offset: _Optional[int] = ...) -> None: ...

class DeleteExecRequest(_message.Message):
    __slots__ = ("id", "exec_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec_id: str
    def __init__(self, id: _Optional[str] = ..., exec_id: _Optional[str] = ...) -> None: ...

class DeleteExecResponse(_message.Message):
    __slots__ = ("exit",)
    EXIT_FIELD_NUMBER: _ClassVar[int]
    exit: Exit
    def __init__(self, exit: _Optional[_Union[Exit, _Mapping]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("ids", "interval", "once")
    IDS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    interval: _duration_pb2.Duration
    once: bool
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., once: _Optional[bool] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("id", "time", "cpu_usec", "cpu_user_usec", "cpu_system_usec", "cpu_throttled_usec", "memory_bytes", "memory_limit_bytes", "memory_peak_bytes", "pids", "pids_limit", "read_bytes", "written_bytes", "oom_kills", "cpu_pressure", "memory_pressure", "io_pressure")
    ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    CPU_USEC_FIELD_NUMBER: _ClassVar[int]
    CPU_USER_USEC_FIELD_NUMBER: _ClassVar[int]
    CPU_SYSTEM_USEC_FIELD_NUMBER: _ClassVar[int]
    CPU_THROTTLED_USEC_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLS_FIELD_NUMBER: _ClassVar[int]
    CPU_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    IO_PRESSURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    time: _timestamp_pb2.Timestamp
    cpu_usec: int
    cpu_user_usec: int
    cpu_system_usec: int
    cpu_throttled_usec: int
    memory_bytes: int
    memory_limit_bytes: int
    memory_peak_bytes: int
    pids: int
    pids_limit: int
    read_bytes: int
    written_bytes: int
    oom_kills: int
    cpu_pressure: float
    memory_pressure: float
    io_pressure: float
    def __init__(self, id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cpu_usec: _Optional[int] = ..., cpu_user_usec: _Optional[int] = ..., cpu_system_usec: _Optional[int] = ..., cpu_throttled_usec: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., memory_peak_bytes: _Optional[int] = ..., pids: _Optional[int] = ..., pids_limit: _Optional[int] = ..., read_bytes: _Optional[int] = ..., written_bytes: _Optional[int] = ..., oom_kills: _Optional[int] = ..., cpu_pressure: _Optional[float] = ..., memory_pressure: _Optional[float] = ..., io_pressure: _Optional[float] = ...) -> None: ...

class ValidateRequest(_message.Message):
    __slots__ = ("bundle", "config")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    config: bytes
    def __init__(self, bundle: _Optional[str] = ..., config: _Optional[bytes] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("pointer", "code", "message", "remedy", "warning")
    POINTER_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    WARNING_FIELD_NUMBER: _ClassVar[int]
    pointer: str
    code: str
    message: str
    remedy: str
    warning: bool
    def __init__(self, pointer: _Optional[str] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., remedy: _Optional[str] = ..., warning: _Optional[bool] = ...) -> None: ...

class ValidateResponse(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class PlanRequest(_message.Message):
    __slots__ = ("bundle", "config")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    config: bytes
    def __init__(self, bundle: _Optional[str] = ..., config: _Optional[bytes] = ...) -> None: ...

class PlanResponse(_message.Message):
    __slots__ = ("steps", "warnings")
    class Step(_message.Message):
        __slots__ = ("executor", "operation", "text", "pointer")
        EXECUTOR_FIELD_NUMBER: _ClassVar[int]
        OPERATION_FIELD_NUMBER: _ClassVar[int]
        TEXT_FIELD_NUMBER: _ClassVar[int]
        POINTER_FIELD_NUMBER: _ClassVar[int]
        executor: str
        operation: str
        text: str
        pointer: str
        def __init__(self, executor: _Optional[str] = ..., operation: _Optional[str] = ..., text: _Optional[str] = ..., pointer: _Optional[str] = ...) -> None: ...
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[PlanResponse.Step]
    warnings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, steps: _Optional[_Iterable[_Union[PlanResponse.Step, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class VersionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VersionResponse(_message.Message):
    __slots__ = ("version", "build_id", "specification", "api", "server_pid", "started_at", "role")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUILD_ID_FIELD_NUMBER: _ClassVar[int]
    SPECIFICATION_FIELD_NUMBER: _ClassVar[int]
    API_FIELD_NUMBER: _ClassVar[int]
    SERVER_PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    version: str
    build_id: str
    specification: str
    api: str
    server_pid: int
    started_at: _timestamp_pb2.Timestamp
    role: str
    def __init__(self, version: _Optional[str] = ..., build_id: _Optional[str] = ..., specification: _Optional[str] = ..., api: _Optional[str] = ..., server_pid: _Optional[int] = ..., started_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., role: _Optional[str] = ...) -> None: ...

class FeaturesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FeaturesResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: bytes
    def __init__(self, json: _Optional[bytes] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShutdownResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class AuditResponse(_message.Message):
    __slots__ = ("entries",)
    class Entry(_message.Message):
        __slots__ = ("time", "caller", "role", "method", "id", "status", "duration")
        TIME_FIELD_NUMBER: _ClassVar[int]
        CALLER_FIELD_NUMBER: _ClassVar[int]
        ROLE_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        ID_FIELD_NUMBER: _ClassVar[int]
        STATUS_FIELD_NUMBER: _ClassVar[int]
        DURATION_FIELD_NUMBER: _ClassVar[int]
        time: _timestamp_pb2.Timestamp
        caller: str
        role: str
        method: str
        id: str
        status: str
        duration: _duration_pb2.Duration
        def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., caller: _Optional[str] = ..., role: _Optional[str] = ..., method: _Optional[str] = ..., id: _Optional[str] = ..., status: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[AuditResponse.Entry]
    def __init__(self, entries: _Optional[_Iterable[_Union[AuditResponse.Entry, _Mapping]]] = ...) -> None: ...
