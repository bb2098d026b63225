//! Recipes of programs that start commands: cron, systemd, containers, Kubernetes, CI, supervisord.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Stage, assert_ended, blocks, section, tool, words};
use crate::support::{Running, ended, eventually, kill, stat_fields};

/// A program that says when it is told to end, and how often.
const TOLD: &str =
    "trap 'echo told; ended=yes' TERM; echo started $*; until [ $ended ]; do sleep 0.01; done; :";

/// The blocks below a heading, for this stage.
fn adapted(stage: &Stage, heading: &str) -> Vec<String> {
    blocks(section(heading)).into_iter().map(|block| stage.adapted(block)).collect()
}

/// The variables and the commands of a table of cron. Fails if a line is none.
fn crontab(table: &str) -> (Vec<(&str, &str)>, Vec<&str>) {
    let (mut variables, mut commands) = (Vec::new(), Vec::new());
    for line in table.lines() {
        match line
            .split_once('=')
            .filter(|(name, _)| name.chars().all(|at| at.is_ascii_uppercase() || at == '_'))
        {
            Some(variable) => variables.push(variable),
            None => {
                let mut rest = line;
                for _ in 0..5 {
                    let (field, after) = rest.trim_start().split_once(' ').unwrap();
                    assert!(field.chars().all(|at| at.is_ascii_digit() || "*/,-".contains(at)), "{line}");
                    rest = after;
                }
                assert!(!rest.contains('%'), "cron makes a new line of it: {line}");
                commands.push(rest.trim_start());
            }
        }
    }
    (variables, commands)
}

/// The settings of a unit or of a section of supervisord. Each has one value here.
fn settings(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

/// A process and all that it has started.
fn tree(root: u32) -> Vec<String> {
    let ids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let parents: Vec<(String, String)> =
        ids.filter_map(|id| Some((stat_fields(&id)?.swap_remove(1), id))).collect();
    let mut found = vec![root.to_string()];
    let mut at = 0;
    while at < found.len() {
        let children = parents.iter().filter(|(parent, _)| *parent == found[at]).map(|(_, id)| id.clone());
        let children: Vec<String> = children.collect();
        found.extend(children);
        at += 1;
    }
    found
}

/// What cron does with the table of a recipe: runs its one command.
fn cron(stage: &Stage, table: &str) -> Command {
    let (variables, commands) = crontab(table);
    let [command] = commands[..] else { panic!("{commands:?}") };
    let mut sh = stage.bare("/bin/sh");
    // A test must not use the store of this host's user, which is the default.
    sh.args(["-c", command]).env("GLOBALLOCK_URL", stage.store.url()).envs(variables);
    sh
}

#[test]
fn a_line_of_cron_runs_the_command_and_is_silent_while_another_does() {
    let stage = Stage::new();
    let table = &adapted(&stage, "cron")[0];
    let go = stage.path("go").display().to_string();
    stage.program("fetch-mail", &format!("echo ran; until [ -e {go} ]; do sleep 0.01; done; echo done"));
    let first = Running::start(&mut cron(&stage, table));
    first.says("ran");
    for _ in 0..2 {
        assert_ended(&ended(&mut cron(&stage, table)), 0, "");
    }
    fs::write(&go, "").unwrap();
    first.says("done");
    assert_eq!(first.end(), Some(0));
    assert_ended(&ended(&mut cron(&stage, table)), 0, "ran\ndone\n");
}

#[test]
fn a_nightly_job_is_done_once_and_tried_by_the_next_host_if_it_fails() {
    let stage = Stage::new();
    let table = &adapted(&stage, "cron")[1];
    let (log, failed) = (stage.path("log").display().to_string(), stage.path("failed").display().to_string());
    let job = format!("echo ran >> {log}; sleep 0.1; mkdir {failed} 2>/dev/null && exit 3; exit 0");
    stage.program("nightly-report", &job);
    let hosts: Vec<_> = (0..6).map(|_| Running::start(&mut cron(&stage, table))).collect();
    let mut ended: Vec<_> = hosts.into_iter().map(Running::end).collect();
    ended.sort_unstable();
    assert_eq!(ended, [0, 0, 0, 0, 0, 3].map(Some));
    assert_eq!(fs::read_to_string(log).unwrap(), "ran\nran\n", "it failed, and then it was done");
}

#[test]
fn a_job_of_a_moment_is_not_done_again_by_a_host_whose_clock_is_behind() {
    let stage = Stage::new();
    let table = &adapted(&stage, "cron")[2];
    stage.program("poll-feeds", "echo ran");
    assert_ended(&ended(&mut cron(&stage, table)), 0, "ran\n");
    for _ in 0..5 {
        assert_ended(&ended(&mut cron(&stage, table)), 0, "");
    }
}

#[test]
fn the_unit_of_systemd_is_right_and_ends_as_it_says() {
    let stage = Stage::new();
    let go = stage.path("go");
    stage.program("reindex", &format!("{TOLD}; until [ -e {} ]; do sleep 0.01; done", go.display()));
    let unit = adapted(&stage, "systemd").remove(0);
    let file = stage.path("reindex.service");
    let verify = |unit: &str| {
        fs::write(&file, unit).unwrap();
        let verified = tool("systemd-analyze", &["verify", file.to_str().unwrap()]);
        format!("{:?}{}{}", verified.status, verified.output, verified.error)
    };
    assert_eq!(verify(&unit), "Some(0)");
    assert!(verify(&unit.replace("KillMode", "KillMod")).contains("KillMod"), "it would notice");
    let settings = settings(&unit);
    assert_eq!((settings["KillMode"], settings["Type"]), ("mixed", "exec"));
    let (variable, url) = settings["Environment"].split_once('=').unwrap();
    let start = words(settings["ExecStart"]);
    let service = || {
        let mut command = stage.bare(start[0]);
        command.args(&start[1..]).env(variable, url);
        command
    };
    // At first as `KillMode=mixed` does it, then as the default does.
    for mixed in [true, false] {
        let run = Running::start(&mut service());
        run.says("started --all");
        let told = if mixed { vec![run.id().to_string()] } else { tree(run.id()) };
        assert!(mixed || told.len() >= 4, "{told:?}");
        for id in told {
            // Some end before it is their turn.
            kill("TERM", &id);
        }
        run.says("told");
        assert!(stage.is_taken("reindex"), "the command cleans up");
        fs::write(&go, "").unwrap();
        let more = run.rest();
        // If systemd is slow, the command has it twice by default.
        assert!(more.is_empty() || !mixed && more == ["told"], "mixed: {mixed}, {more:?}");
        fs::remove_file(&go).unwrap();
        stage.becomes_free("reindex");
    }
    let holder = stage.holder("reindex");
    let hurried = start.iter().map(|word| if *word == "10m" { "50ms" } else { word });
    let refused = ended(stage.bare(start[0]).args(hurried.skip(1)).env(variable, url));
    assert_eq!(
        refused.status.map(|status| status.to_string()).as_deref(),
        Some(settings["SuccessExitStatus"])
    );
    assert_eq!(holder.end(), Some(1));
}

/// Runs a command as the first process of a container.
fn contained(stage: &Stage, command: &[String]) -> Command {
    let mut unshare = stage.bare("unshare");
    unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    unshare.args(command);
    unshare
}

/// What a recipe of containers does: its command runs as the first process, and TERM to that ends it in
/// order.
fn is_contained(stage: &Stage, command: &[String], variables: &[(&str, &str)], name: &str) {
    stage.program("report.sh", TOLD);
    let run = Running::start(contained(stage, command).envs(variables.iter().copied()));
    run.says("started --all");
    assert!(stage.is_taken(name));
    // The runtime sends it to the first process, here the child of `unshare`.
    let first = tree(run.id()).swap_remove(1);
    assert!(kill("TERM", &first));
    run.says("told");
    assert_eq!(run.end(), Some(0));
    stage.becomes_free(name);
    stage.program("report.sh", "grep -q globallock /proc/1/comm || exit 9; sleep 1000 & exit 5");
    let run = ended(contained(stage, command).envs(variables.iter().copied()));
    assert_eq!(run.status, Some(5), "{}", run.error);
    stage.becomes_free(name);
}

/// The words of an instruction in the form of a list. The form of JSON is that of Rust here.
fn list(text: &str) -> Vec<String> {
    let inner = text.trim().strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap();
    let word = |word: &str| {
        word.trim().strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap().to_owned()
    };
    assert!(!inner.contains('\\'), "{text}");
    inner.split(',').map(word).collect()
}

#[test]
fn the_image_has_what_it_starts_and_starts_it_under_the_lock() {
    let stage = Stage::new();
    let [dockerfile] = blocks(section("Containers"))[..] else { panic!() };
    let (mut stages, mut files, mut start) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for line in dockerfile.lines().filter(|line| !line.is_empty()) {
        let (instruction, rest) = line.split_once(' ').unwrap();
        let words = rest.split(' ').collect::<Vec<_>>();
        match (instruction, &words[..]) {
            ("FROM", [_, "AS", stage]) => stages.push(*stage),
            // What was copied before is in another image.
            ("FROM", [_]) => files.clear(),
            ("RUN", ["cargo", "install", "--locked", "--path", path, "--root", root]) => {
                let root_of_project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
                let manifest = root_of_project.join(path.strip_prefix("/src/").unwrap()).join("Cargo.toml");
                assert!(fs::read_to_string(manifest).unwrap().contains("name = \"globallock\""));
                files.push(format!("{root}/bin/globallock"));
            }
            ("COPY", [from, file, to]) if from.starts_with("--from=") => {
                assert!(stages.contains(&from.trim_start_matches("--from=")), "{line}");
                assert_eq!(*file, "/usr/local/bin/globallock");
                files.push((*to).to_owned());
            }
            ("COPY", [_, to]) => files.push((*to).to_owned()),
            ("ENTRYPOINT", _) => start[0] = list(rest),
            ("CMD", _) => start[1] = list(rest),
            _ => panic!("{line}"),
        }
    }
    // Both programs are where the shell of an image looks.
    for program in [&start[0][0], &start[1][0]] {
        assert!(files.contains(&format!("/usr/local/bin/{program}")), "{program}: {files:?}");
    }
    let url = stage.store.url();
    is_contained(&stage, &start.concat(), &[("GLOBALLOCK_URL", &url)], "report");
}

/// Reads YAML, and prints what this program of Python finds in it, a line each.
fn yaml(text: &str, program: &str) -> Vec<String> {
    let program = format!("import sys, yaml\nread = yaml.safe_load(sys.argv[1])\n{program}");
    let read = tool("python3", &["-c", &program, text]);
    assert_eq!((read.status, read.error.as_str()), (Some(0), ""));
    read.output.lines().map(str::to_owned).collect()
}

#[test]
fn the_job_of_kubernetes_runs_under_the_lock() {
    let stage = Stage::new();
    let job = adapted(&stage, "Kubernetes").remove(0);
    let kind = yaml(&job, "print(read['apiVersion'], read['kind'], read['spec']['concurrencyPolicy'])");
    assert_eq!(kind, ["batch/v1 CronJob Forbid"]);
    let pod =
        "pod = read['spec']['jobTemplate']['spec']['template']['spec']\n[container] = pod['containers']\n";
    let print = |program: &str| yaml(&job, &format!("{pod}{program}"));
    let command = print("for word in container['command'] + container['args']: print(word + '')");
    let [variable, value] =
        &print("[variable] = container['env']\nprint(variable['name'], variable['value'], sep='\\n')")[..]
    else {
        panic!()
    };
    // The file is in a volume that is mounted.
    let mounted = "[mount], [volume] = container['volumeMounts'], pod['volumes']\n\
                   print(mount['name'] == volume['name'], mount['mountPath'])";
    let page = blocks(section("Kubernetes"))[0];
    let (_, file) = page.split_once("value: ").unwrap();
    let mounted = print(mounted).remove(0);
    let directory = Path::new(file.lines().next().unwrap()).parent().unwrap();
    assert_eq!(mounted, format!("True {}", directory.display()));
    let grace: u32 = print("print(pod['terminationGracePeriodSeconds'])")[0].parse().unwrap();
    let at = command.iter().position(|word| word == "--grace").unwrap();
    assert!(grace > command[at + 1].trim_end_matches('s').parse().unwrap());
    is_contained(&stage, &command, &[(variable, value)], "report");
    let holder = stage.holder("report");
    let skipped = ended(contained(&stage, &command).env(variable, value));
    assert_eq!((skipped.status, skipped.output.as_str()), (Some(0), ""), "{}", skipped.error);
    assert_eq!(holder.end(), Some(1));
}

#[test]
fn deployments_of_ci_run_one_after_the_other() {
    let stage = Stage::new();
    stage.program("deploy.sh", "globallock run -n deploy-staging -- true; echo deployed $* $?");
    let job = adapted(&stage, "CI").remove(0);
    let variables =
        yaml(&job, "for name, value in read['deploy-staging']['variables'].items(): print(name, value)");
    let [variable] = &variables[..] else { panic!("{variables:?}") };
    let (name, value) = variable.split_once(' ').unwrap();
    let [line] = &yaml(&job, "for line in read['deploy-staging']['script']: print(line)")[..] else {
        panic!()
    };
    let script = |line: &str| {
        let mut sh = stage.bare("sh");
        sh.args(["-e", "-c", line]).env(name, value).env("CI_JOB_URL", "https://ci.example.com/7");
        sh
    };
    let ran = ended(&mut script(line));
    assert_eq!((ran.status, ran.output.as_str()), (Some(0), "deployed staging 75\n"));
    assert!(ran.error.contains("held by https://ci.example.com/7 (pid"), "{}", ran.error);
    let holder = stage.holder("deploy-staging");
    let refused = ended(&mut script(&line.replace("10m", "50ms")));
    assert_eq!((refused.status, refused.output.as_str()), (Some(75), ""), "{}", refused.error);
    assert_eq!(holder.end(), Some(1));
}

#[test]
fn supervisord_starts_and_stops_a_program_under_the_lock() {
    let stage = Stage::new();
    let said = stage.path("said").display().to_string();
    stage.program("consume", &format!("exec >>{said}; {TOLD}"));
    let directory = stage.path("").display().to_string();
    let configuration = format!(
        "[supervisord]\nnodaemon=true\nlogfile={directory}/log\npidfile={directory}/pid\n\
         childlogdir={directory}\n\
         [unix_http_server]\nfile={directory}/socket\n\
         [rpcinterface:supervisor]\n\
         supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisorctl]\nserverurl=unix://{directory}/socket\n{}",
        adapted(&stage, "supervisord").remove(0)
    );
    let file = stage.path("supervisord.conf").display().to_string();
    fs::write(&file, configuration).unwrap();
    let supervisord = Running::start(stage.bare("supervisord").args(["-n", "-c", &file]));
    let ctl = |verb: &[&str]| ended(stage.bare("supervisorctl").args(["-c", &file]).args(verb));
    let has_said = |text: &str| {
        let said = || fs::read_to_string(&said).is_ok_and(|said| said.ends_with(text)).then_some(());
        assert!(eventually(said).is_some(), "{text:?}: {:?}", fs::read_to_string(stage.path("log")));
    };
    has_said("started --forever\n");
    assert!(stage.is_taken("consumer"));
    // It starts the program again, and that waits for its turn.
    let stopped = ctl(&["stop", "consumer"]);
    assert_eq!(stopped.output, "consumer: stopped\n", "{stopped:?}");
    has_said("started --forever\ntold\n");
    assert!(!stage.is_taken("consumer"), "the lock is released when it has stopped");
    let holder = stage.holder("consumer");
    ctl(&["start", "consumer"]);
    assert!(ctl(&["status"]).output.contains("RUNNING"), "it waits");
    assert_eq!(holder.end(), Some(1));
    has_said("told\nstarted --forever\n");
    supervisord.signal("TERM");
    has_said("started --forever\ntold\n");
    assert_eq!(supervisord.end(), Some(0));
    stage.becomes_free("consumer");
}
