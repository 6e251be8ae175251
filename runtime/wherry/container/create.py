# SPDX-License-Identifier: Apache-2.0
"""create, as an agenda: config.json -> plan (from the cache, or compiled) -> a container that waits for start. On the hot path."""

import posix
from _json import encode_basestring
from _struct import unpack_from

from wherry.container.lifecycle import check_id
from wherry.container.options import read_file
from wherry.errors import UsageError, WherryError
from wherry.kernel import native
from wherry.kernel.native import Failure, constants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from wherry.container.interlude import Interlude
    from wherry.container.options import CreateOptions
    from wherry.kernel.hostfacts import HostFacts
    from wherry.plan.options import Options

_FLAGS_OFFSET = 12  # of `flags` in struct wherry_plan


class Prepared:
    """All that is decided before anything is done: the configuration's bytes, the plan, what it left out on purpose."""

    __slots__ = ("config", "flags", "plan", "warnings")

    def __init__(self, config: bytes, plan: bytes, warnings: "list[str]") -> None:
        self.config, self.plan, self.warnings = config, plan, warnings
        self.flags = _flags(plan)

    @property
    def terminal(self) -> bool:
        return bool(self.flags & constants.WHERRY_PLAN_TERMINAL)


def create(options: "CreateOptions") -> "list[str]":
    """Makes a container that waits for start; returns warnings."""
    prepared = prepare(options)
    check_terminal(options, prepared)
    launch(options, prepared).close()
    return prepared.warnings


def check_terminal(options: "CreateOptions", prepared: Prepared) -> None:
    """Who is detached cannot pump a terminal: its master must go to a socket. Who is attached does, and needs none."""
    if prepared.terminal and not options.attached and not options.console_socket:
        raise UsageError("cannot allocate tty if wherry will detach without setting console socket", code="WHERRY-USAGE-TERMINAL")
    if options.console_socket and (options.attached or not prepared.terminal):
        raise UsageError("cannot use console socket if wherry will not detach or allocate tty", code="WHERRY-USAGE-TERMINAL")


def prepare(options: "CreateOptions") -> Prepared:
    check_id(options.id)
    options.phase("read config")
    config = options.config if options.config is not None else read_config(options.bundle)
    plan, warnings = _plan(options, config)
    prepared = Prepared(config, plan, warnings)
    if b"WHERRY_FAILURE" in posix.environ:
        from wherry.container.wording import Setting, raise_told

        raise_told(plan, Setting.of(options))
    return prepared


def read_config(bundle: str) -> bytes:
    path = f"{bundle}/config.json"
    try:
        data = read_file(path)
    except OSError as error:
        text = (error.strerror or "").lower()
        remedy = f'make one with "wherry spec --bundle {bundle}"' if error.errno == 2 else None
        raise UsageError(f"{path}: {text}", code="WHERRY-USAGE-BUNDLE", remedy=remedy, errno=error.errno) from error
    return data


def _plan(options: "CreateOptions", config: bytes) -> "tuple[bytes, list[str]]":
    environment = listen_environment()
    cached, plan = None, None
    options.phase("look into the cache")
    if not environment and not options.notify and not options.fresh and options.cgroup_manager == "cgroupfs":
        cached = _cached(config, options)
        plan = cached and cached.load(options.root)
        if plan and not (options.heeds and _flags(plan) & constants.WHERRY_PLAN_WARNED):
            return plan, []
    compilation, known = Compilation(options, config, environment), plan is not None
    plan = compilation.plan()
    options.phase("store the plan")
    cacheable = not compilation.bound and _flags(plan) & constants.WHERRY_PLAN_CACHEABLE
    if cached is not None and cacheable and not known:
        keep(options.root, cached, plan, lambda: compilation.pattern(cached))
    return plan, compilation.warnings


def _flags(plan: bytes) -> int:
    return int(unpack_from("<I", plan, _FLAGS_OFFSET)[0])


def _cached(config: bytes, options: "CreateOptions") -> "native.Pattern | None":
    try:
        return native.Pattern(config, _option_bits(options), facts=options.facts())
    except OSError:  # the parser will say what is wrong
        return None


def keep(root: str, cached: native.Pattern, plan: bytes, pattern: "Callable[[], bytes | None]") -> None:
    """The first plan of its kind is kept as it is. The second one shows that more will come: from then on they share a pattern."""
    asked = f"{root}/@plans/{cached.pattern}"
    try:
        first = posix.stat(asked).st_size > 0
    except OSError:
        first = True
    if not first and (shared := pattern()):
        native.cache_store(root, cached.pattern, shared)
    elif native.cache_store(root, cached.exact, plan) and first:
        ask_for(asked)


def ask_for(pattern: str) -> bool:
    """Leaves an empty file in a pattern's place, so that the next one of its kind makes it. False: this is that one."""
    try:
        posix.close(posix.open(pattern, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    except OSError:  # there is no such directory yet: the next one is the first one, then
        pass
    return True


class Compilation:
    """One configuration on its way to a plan; nothing on the host changes but the cache of seccomp filters. No facts: those of this host."""

    __slots__ = ("bound", "config", "environment", "facts", "options", "warnings")

    def __init__(self, options: "CreateOptions", config: bytes, environment: "list[str]", facts: "HostFacts | None" = None) -> None:
        self.options, self.config, self.environment, self.facts = options, config, environment, facts
        self.warnings: "list[str]" = []
        self.bound = False  # to this bundle: the same configuration in another one would give another plan

    def plan(self) -> bytes:
        options, phase = self.options, self.options.phase
        phase("load the compiler")
        from wherry.kernel.hostfacts import gather
        from wherry.oci.checks import check
        from wherry.oci.config import load
        from wherry.plan.compile import compile, wanted

        phase("parse")
        document: "Any" = load(self.config, f"{options.bundle}/config.json")
        if options.notify:
            from wherry.container import notify

            self.environment = [*self.environment, *notify.add(document, options.root, options.id)]
        phase("check")
        self.warnings += check(document, advice=False)
        self.bound = _take_rootfs_away(document, options.bundle)
        phase("look at the host")
        given = self.facts is not None
        self.facts = self.facts or gather(**wanted(document))
        if options.cgroup_manager == "systemd":
            from wherry.container.unit import look

            look(self.facts, options, document, given)
        phase("compile")
        return compile(document, self.facts, self._choices(self.warnings))

    def pattern(self, cached: native.Pattern) -> "bytes | None":
        """The plan with marks in the blanks; None where it would look at what stands in one."""
        from wherry.oci.config import load
        from wherry.oci.shape import TAKEN
        from wherry.plan.compile import compile, wanted

        document: "Any" = load(cached.marked())
        if any(TAKEN in warning for warning in self.warnings):
            return None  # only the check puts such names right
        if native.BLANK in self.config or wanted(document)["namespaces"] or self.facts is None:
            return None
        return compile(document, self.facts, self._choices(list(self.warnings)))

    def _choices(self, warnings: "list[str]") -> "Options":
        from wherry.plan.options import Options

        options = self.options
        choices = Options(
            no_pivot=options.no_pivot,
            no_new_keyring=options.no_new_keyring,
            preserve_fds=options.preserve_fds,
            attached_terminal=options.attached,
            rootless=options.rootless,
            cgroup_manager=options.cgroup_manager,
            environment=self.environment,
            seccomp=lambda section: _filter(section, options.root),
        )
        choices.warnings = warnings
        return choices


def _take_rootfs_away(document: "Any", bundle: str) -> bool:
    """Some engines write a mount's destination as the host sees it, below the root filesystem. True where one did."""
    path: str = document["root"]["path"]
    rootfs = (path if path[:1] == "/" else f"{bundle}/{path}").rstrip("/") + "/"
    found = [mount for mount in document.get("mounts") or () if mount["destination"].startswith(rootfs)]
    for mount in found:
        mount["destination"] = mount["destination"][len(rootfs) - 1 :]
    return bool(found) and path != "/"


def compile_plan(
    options: "CreateOptions", config: bytes, environment: "list[str]", facts: "HostFacts | None" = None
) -> "tuple[bytes, list[str]]":
    """The plan and the warnings."""
    compilation = Compilation(options, config, environment, facts)
    return compilation.plan(), compilation.warnings


def _filter(section: "dict[str, object]", root: str) -> "tuple[bytes, int]":
    from wherry.seccomp.cache import filter_of, flags_of

    return filter_of(section, root), flags_of(section)


def _option_bits(options: "CreateOptions") -> int:
    """What changes the plan besides the configuration, as the front packs it too."""
    bits = options.preserve_fds << constants.WHERRY_OPTION_PRESERVE_SHIFT
    if options.no_pivot:
        bits |= constants.WHERRY_OPTION_NO_PIVOT
    if options.no_new_keyring:
        bits |= constants.WHERRY_OPTION_NO_NEW_KEYRING
    if options.rootless:
        bits |= constants.WHERRY_OPTION_ROOTLESS
    if options.cgroup_manager == "systemd":
        bits |= constants.WHERRY_OPTION_SYSTEMD
    return int(bits)


def listen_environment() -> "list[str]":
    """What socket activation adds to the container's environment: nothing, unless the descriptors are meant for us."""
    count = posix.environ.get(b"LISTEN_FDS", b"")
    if not count.isdigit() or posix.environ.get(b"LISTEN_PID") != b"%d" % posix.getpid():
        return []
    return [f"LISTEN_FDS={count.decode()}", "LISTEN_PID=1"]


def launch(options: "CreateOptions", prepared: Prepared) -> native.Create:
    """Executes the plan up to a container that waits for start. The result is the caller's to close."""
    try:
        return _launch(options, prepared)
    except Failure as failure:
        if failure.error != constants.WHERRY_EXISTS:
            raise worded(failure, prepared, options) from failure
    from wherry.container.gc import undo_crashed_create
    from wherry.errors import exists

    if not undo_crashed_create(options.root, options.id):
        raise exists(options.id)
    try:
        return _launch(options, prepared)
    except Failure as failure:
        raise worded(failure, prepared, options) from failure


def worded(failure: Failure, prepared: Prepared, options: "CreateOptions") -> WherryError:
    options.phase("word the failure")
    from wherry.container.wording import Setting, explain

    error = explain(failure, prepared.plan, Setting.of(options))
    if prepared.flags & constants.WHERRY_PLAN_POSTSTOP:
        from wherry.container.hooks import poststop_after_failed_create

        error.also += poststop_after_failed_create(failure, prepared, options)
    return error


def _launch(options: "CreateOptions", prepared: Prepared) -> native.Create:
    listening = posix.environ[b"LISTEN_FDS"] if listen_environment() else b"0"
    notifying = bool(options.notify) and _notify(options)
    interlude = interlude_of(options, prepared)
    options.phase("native create")
    create = native_create(options, prepared, options.preserve_fds + int(listening), interlude.extra if interlude else ())
    try:
        done = create.begin()
        while not done and interlude:
            options.phase("interlude")
            try:
                interlude.perform(create)
            except BaseException:
                create.abort()
                raise
            options.phase("native finish")
            done = create.finish()
        if options.timeline is not None:
            options.timeline.pid = create.pid
        return create
    except BaseException as error:
        create.close()
        if notifying:
            _notify(options, undo=True)
        if interlude:
            interlude.undo(error)
        raise


def _notify(options: "CreateOptions", undo: bool = False) -> bool:
    from wherry.container import notify

    if undo:
        notify.remove(options.root, options.id)
    return not undo and notify.make(options.root, options.id)


def native_create(
    options: "CreateOptions", prepared: Prepared, preserve_fds: int = 0, extra: "Sequence[tuple[int, str]]" = ()
) -> native.Create:
    """Not begun yet."""
    return native.Create(
        plan=prepared.plan,
        root=options.root,
        id=options.id,
        bundle=options.bundle,
        bundle_json=encode_basestring(options.bundle)[1:-1],
        config=prepared.config,
        pid_file=options.pid_file,
        console_socket=options.console_socket,
        pidfd_socket=options.pidfd_socket,
        preserve_fds=preserve_fds,
        stdio=options.stdio,
        extra=extra,
        trace=options.trace(prepared.plan),
        console_as_is=options.console_as_is,
    )


def interlude_of(options: "CreateOptions", prepared: Prepared) -> "Interlude | None":
    """The caller's part of the plan, where it has one."""
    if not prepared.flags & constants.WHERRY_PLAN_INTERLUDE:
        return None
    from wherry.container.interlude import Interlude
    from wherry.oci.config import load

    document: "Any" = load(prepared.config)
    return Interlude(prepared.plan, prepared.flags, document, options.id)
