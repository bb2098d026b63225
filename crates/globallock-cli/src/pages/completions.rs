//! The completions of the shells.
//!
//! What is made from the arguments knows verbs and options. It does not know that names of locks come from
//! the store, and that behind `--` another command line begins. A script beside it, for each of the shells
//! that most people have, does.

use clap::Command;
use clap_complete::{Shell, generate};

/// Where the made script of zsh has its function, where it registers it, and where it has what stands behind
/// `--`, as if no option could follow the name of the lock.
const ZSH_FUNCTION: &str = "\n_globallock() {\n";
const ZSH_COMMAND: &str = "'*::command -- ";
const ZSH_END: &str = "\nif [ \"$funcstack[1]\" =";

/// The script for this shell.
pub(super) fn of(mut command: Command, shell: Shell) -> Vec<u8> {
    let mut made = Vec::new();
    generate(shell, &mut command, "globallock", &mut made);
    let made = String::from_utf8_lossy(&made).into_owned();
    match shell {
        Shell::Bash => made + include_str!("globallock.bash"),
        Shell::Fish => made + include_str!("globallock.fish") + &fish_values(&command),
        Shell::Zsh => {
            let made = made.replacen(ZSH_FUNCTION, "\n_globallock_arguments() {\n", 1);
            let lines = made.split_inclusive('\n').filter(|line| !line.starts_with(ZSH_COMMAND));
            let made: String = lines.collect();
            let (arguments, end) = made.split_once(ZSH_END).unwrap_or((&made, ""));
            format!("{arguments}\n{}{ZSH_END}{end}", include_str!("globallock.zsh"))
        }
        _ => made,
    }
    .into_bytes()
}

/// What may stand behind each verb, where the values are known: what is made for fish has only options.
fn fish_values(command: &Command) -> String {
    let mut lines = String::new();
    for verb in command.get_subcommands() {
        for argument in verb.get_positionals() {
            let values: Vec<String> =
                argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            if !values.is_empty() {
                let (verb, values) = (verb.get_name(), values.join(" "));
                lines += &format!(
                    "complete -c globallock -n '__fish_globallock_using_subcommand {verb}' -f -a '{values}'\n"
                );
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use globallock::Schemes;

    #[test]
    fn what_is_made_for_zsh_is_called_by_the_script_beside_it() {
        let made = of(crate::arguments::command(&Schemes::default()), Shell::Zsh);
        let made = String::from_utf8(made).unwrap();
        for text in ["\n_globallock_arguments() {\n", ZSH_FUNCTION, ZSH_END] {
            assert_eq!(made.matches(text).count(), 1, "{text}: {made}");
        }
        assert!(!made.contains(ZSH_COMMAND) && made.contains("':name -- "), "{made}");
        assert!(
            made.starts_with("#compdef globallock\n")
                && made.ends_with("compdef _globallock globallock\nfi\n")
        );
    }
}
