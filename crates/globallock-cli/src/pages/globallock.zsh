_globallock() {
    local behind=${words[(ie)--]} expl
    if (( behind < CURRENT )); then
        # A command line of its own begins.
        shift $behind words
        (( CURRENT -= behind ))
        _normal -p globallock
        return
    fi
    local -a names
    names=(${(f)"$(_call_program locks \
        ${(q)words[1]} completions zsh -- ${(q)${(@Q)words[2,CURRENT-1]}} ${(q)${(Q)PREFIX}})"})
    if (( $#names )); then
        _wanted locks expl 'lock' compadd -a names
        return
    fi
    _globallock_arguments "$@"
}
