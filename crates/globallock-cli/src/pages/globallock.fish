
# Whether a command line of its own begins before the cursor.
function __globallock_is_behind_dashes
    contains -- -- (commandline -opc)
end

function __globallock_command
    set -l words (commandline -opc)
    set -e words[1..(contains -i -- -- $words)]
    complete --do-complete=(string join ' ' -- (string escape -- $words) (commandline -ct))
end

function __globallock_names
    set -l words (commandline -opc) (commandline -ct)
    command $words[1] completions fish -- $words[2..-1] 2>/dev/null
end

complete -c globallock -n 'not __fish_globallock_needs_command; and not __globallock_is_behind_dashes' \
    -f -a '(__globallock_names)' -d Lock
complete -c globallock -n __globallock_is_behind_dashes -x -a '(__globallock_command)'
