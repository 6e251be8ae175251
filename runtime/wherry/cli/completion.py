# SPDX-License-Identifier: Apache-2.0
"""wherry completion SHELL: a script that makes bash, zsh or fish complete verbs, flags, their values, and the ids of containers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wherry.cli import Call
from wherry.cli.catalogue import DIRECTORY, FILE, IDS, NOTHING, SHELLS, Flag, Verb, global_flags, verbs
from wherry.errors import UsageError

FLAGS: dict[str, int | str] = {}


def run(call: Call) -> int:
    (shell,) = call.positional(1, 1)
    if shell not in SHELLS:
        raise UsageError(f'no completion for "{shell}"', remedy=f"one of: {', '.join(SHELLS)}")
    print({"bash": bash, "zsh": zsh, "fish": fish}[shell](), end="")
    return 0


def _spellings(flag: Flag) -> list[str]:
    return [f"--{flag.name}", *([f"-{flag.short}"] if flag.short else ())]


# ---- bash: no bash-completion package is needed

_BASH = r"""# bash completion of wherry; printed by `wherry completion bash`. For instance: source <(wherry completion bash)

# What the value of a flag may be, by "VERB NAME"; nothing for a switch.
_wherry_value() {
  case "$1 $2" in
@VALUES@
  esac
}

# What the flags of a verb are.
_wherry_flags() {
  case "$1" in
@FLAGS@
  esac
}

# What positional argument number $2 of verb $1 may be.
_wherry_positional() {
  case "$1 $2" in
@POSITIONAL@
  esac
}

_wherry() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="" word name value count=0 at=1 what=""
  local -a root=()
  COMPREPLY=()
  # "--flag=value" comes as three words
  if [[ $cur == = ]]; then cur=""; elif [[ $prev == = ]]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi
  while ((at < COMP_CWORD)); do
    word="${COMP_WORDS[at]}"
    ((at++))
    if [[ $word == -?* ]]; then
      name="${word#-}"; name="${name#-}"
      value="$(_wherry_value "$verb" "$name")"
      [[ $value ]] || continue
      [[ ${COMP_WORDS[at]} == = ]] && ((at++))
      [[ $verb$name == root ]] && ((at < COMP_CWORD)) && root=(--root "${COMP_WORDS[at]}")
      ((at >= COMP_CWORD)) && what="$value"
      ((at++))
    elif [[ ! $verb ]]; then
      verb="$word"
    elif [[ $word != = ]]; then
      ((count++))
    fi
  done
  if [[ ! $what ]]; then
    if [[ $cur == -* ]]; then
      what="$(_wherry_flags "$verb")"
    elif [[ ! $verb ]]; then
      what="@VERBS@"
    else
      what="$(_wherry_positional "$verb" "$count")"
    fi
  fi
  local IFS=$'\n'
  case "$what" in
    @directory) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$cur")) ;;
    @file) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")) ;;
    @ids) COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" "${root[@]}" list --quiet 2>/dev/null)" -- "$cur")) ;;
    @nothing) ;;
    *) IFS=$' \n'; COMPREPLY=($(compgen -W "$what" -- "$cur")) ;;
  esac
}
complete -F _wherry wherry
"""


def bash() -> str:
    known = [("", global_flags()), *((verb.name, verb.flags) for verb in verbs())]
    values = (_bash_value(verb, flag) for verb, flags in known for flag in flags if flag.value)
    flags = (
        f'    "{verb}") echo "{" ".join([*(word for flag in flags for word in _spellings(flag)), "--help"])}" ;;' for verb, flags in known
    )
    positional = (line for verb in verbs() for line in _bash_positional(verb))
    text = _BASH.replace("@VALUES@", "\n".join(values)).replace("@FLAGS@", "\n".join(flags)).replace("@POSITIONAL@", "\n".join(positional))
    return text.replace("@VERBS@", " ".join(verb.name for verb in verbs()))


def _bash_value(verb: str, flag: Flag) -> str:
    patterns = "|".join(f'"{verb} {name}"' for name in (flag.name, flag.short) if name)
    return f'    {patterns}) echo "{flag.words}" ;;'


def _bash_positional(verb: Verb) -> Iterator[str]:
    for number, words in enumerate(verb.positional):
        last = verb.repeats and number == len(verb.positional) - 1
        yield f'    "{verb.name} "{"*" if last else number}) echo "{words}" ;;'


# ---- zsh

_ZSH = r"""#compdef wherry
# zsh completion of wherry; printed by `wherry completion zsh`, for a file _wherry in a directory of $fpath

_wherry_ids() {
  local -a ids
  ids=(${(f)"$(_call_program ids $words_before list --quiet 2>/dev/null)"})
  _describe -t ids 'container' ids
}

_wherry() {
  local curcontext="$curcontext" state line words_before=wherry
  local -a verbs
  typeset -A opt_args
  verbs=(
@VERBS@
  )
  _arguments -C \
@GLOBALS@
    '1:verb:->verb' \
    '*::argument:->argument'
  [[ -n ${opt_args[--root]} ]] && words_before="wherry --root ${opt_args[--root]}"
  case $state in
    verb) _describe -t verbs 'verb' verbs ;;
    argument)
      case $words[1] in
@CASES@
      esac ;;
  esac
}

if [[ $funcstack[1] == _wherry ]]; then _wherry "$@"; else compdef _wherry wherry; fi
"""


def zsh() -> str:
    names = "\n".join(f"    {_quote(f'{verb.name}:{verb.line}')}" for verb in verbs())
    cases = "\n".join(f"        {verb.name}) _arguments \\\n{_zsh_lines(_zsh_arguments(verb))} ;;" for verb in verbs())
    text = _ZSH.replace("@VERBS@", names).replace("@CASES@", cases)
    return text.replace("@GLOBALS@", "".join(f"    {argument} \\\n" for argument in _zsh_flags(global_flags())).rstrip("\n"))


def _zsh_lines(arguments: Iterable[str]) -> str:
    return " \\\n".join(f"          {argument}" for argument in arguments)


def _zsh_arguments(verb: Verb) -> Iterator[str]:
    yield from _zsh_flags(verb.flags)
    yield "'(- *)'{-h,--help}'[say what it does]'"
    for number, words in enumerate(verb.positional, 1):
        last = verb.repeats and number == len(verb.positional)
        yield _quote(f"{'*' if last else number}:argument:{_zsh_action(words)}")


def _zsh_flags(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        text = flag.text.replace("[", "(").replace("]", ")").replace(":", "\\:")
        value = (
            f":{flag.value.strip('[]').replace(':', ' ').replace('[', '').replace(']', '')}:{_zsh_action(flag.words)}" if flag.value else ""
        )
        once = "*" if flag.many else f"({' '.join(_spellings(flag))})" if flag.short else ""
        for word in _spellings(flag):
            end = "=" if flag.value and word.startswith("--") else ""
            yield _quote(f"{once}{word}{end}[{text}]{value}")


def _zsh_action(words: str) -> str:
    return {DIRECTORY: "_files -/", FILE: "_files", IDS: "_wherry_ids", NOTHING: " "}.get(words, f"({words})")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# ---- fish

_FISH = """# fish completion of wherry; printed by `wherry completion fish`, for ~/.config/fish/completions/wherry.fish

function __wherry_ids
    set -l words (commandline -opc)
    set -l root
    for at in (seq 2 (count $words))
        switch $words[$at]
            case --root -root
                set root --root $words[(math $at + 1)]
            case '--root=*' '-root=*'
                set root $words[$at]
        end
    end
    $words[1] $root list --quiet 2>/dev/null
end

complete -c wherry -f
"""


def fish() -> str:
    lines = [_FISH]
    lines += [_fish_flag("__fish_use_subcommand", flag) for flag in global_flags()]
    for verb in verbs():
        lines.append(f"complete -c wherry -n __fish_use_subcommand -a {verb.name} -d {_fish_quote(verb.line)}\n")
        seen = f"__fish_seen_subcommand_from {verb.name}"
        lines += [_fish_flag(seen, flag) for flag in verb.flags]
        for words in dict.fromkeys(words for words in verb.positional if words != NOTHING):
            lines.append(f"complete -c wherry -n {_fish_quote(seen)} -a {_fish_quote(_fish_words(words))}\n")
    lines.append("complete -c wherry -l help -s h -d 'say what it does'\n")
    return "".join(lines)


def _fish_flag(condition: str, flag: Flag) -> str:
    short = f" -s {flag.short}" if flag.short else ""
    value = f" -r -a {_fish_quote(_fish_words(flag.words))}" if flag.value and flag.words != NOTHING else " -r" if flag.value else ""
    files = " -F" if flag.words == FILE else ""
    return f"complete -c wherry -n {_fish_quote(condition)} -l {flag.name}{short}{value}{files} -d {_fish_quote(flag.text)}\n"


def _fish_words(words: str) -> str:
    return {DIRECTORY: "(__fish_complete_directories)", FILE: "", IDS: "(__wherry_ids)"}.get(words, words)


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
