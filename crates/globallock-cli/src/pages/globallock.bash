
# Which words were typed, up to the cursor: bash splits them at each `:` and `=` too.
_globallock_typed() {
    local rest=${COMP_LINE:0:COMP_POINT} blank i
    typed=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        blank=${rest%%[![:blank:]]*}
        rest=${rest#"$blank"}
        [[ $i -eq 0 || -n $blank ]] && typed+=("")
        if ((i == COMP_CWORD)); then
            typed[${#typed[@]} - 1]+=$rest
        else
            typed[${#typed[@]} - 1]+=${COMP_WORDS[i]}
            rest=${rest#"${COMP_WORDS[i]}"}
        fi
    done
}

# Completes what stands behind `--` as a command line of its own.
_globallock_command() {
    local offset=$1
    if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "$offset"
    elif declare -F _command_offset >/dev/null; then
        _command_offset "$offset"
    elif ((COMP_CWORD == offset)); then
        mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
    else
        # The default of bash: files.
        COMPREPLY=()
    fi
}

_globallock_with_names() {
    local i current name names typed
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then
            _globallock_command $((i + 1))
            return
        fi
    done
    _globallock "$@"
    _globallock_typed
    current=${typed[${#typed[@]} - 1]}
    mapfile -t names < <("${typed[0]}" completions bash -- "${typed[@]:1}" 2>/dev/null)
    ((${#names[@]})) || return 0
    COMPREPLY=()
    for name in "${names[@]}"; do
        # What stands before the last `:` is another word for bash.
        [[ $COMP_WORDBREAKS == *:* ]] && name=${name#"${current%"${current##*:}"}"}
        printf -v name %q "$name"
        COMPREPLY+=("$name")
    done
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _globallock_with_names -o nosort -o bashdefault -o default globallock
else
    complete -F _globallock_with_names -o bashdefault -o default globallock
fi
