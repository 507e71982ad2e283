//! docs/completions: what a shell offers after the name of a program.

use crate::program::{Program, Values, values};

fn start(program: &Program) -> String {
    format!("# Made from the tables of settings: {}\n", program.writes_docs())
}

/// Every flag with a value: what it does, in short, and what completes the value.
fn flags(program: &Program) -> Vec<(String, String, Values)> {
    let short = |help: &str| help.split([';', ':']).next().unwrap_or_default().to_owned();
    let mut flags = Vec::new();
    for setting in program.table {
        flags.push((setting.flag(), short(setting.help()), values(setting)));
        if let Some((_, flag)) = setting.file() {
            flags.push((flag, format!("the file that holds {}", setting.name), Values::Files));
        }
    }
    flags
        .extend(program.options().into_iter().map(|(flag, help, _, values)| (flag.to_owned(), help, values)));
    flags
}

pub fn bash(program: &Program) -> String {
    let name = program.name;
    let function = format!("_{}", name.replace('-', "_"));
    let (mut cases, mut files, mut unknown, mut all) = (String::new(), Vec::new(), Vec::new(), Vec::new());
    for (flag, _, values) in flags(program) {
        match values {
            Values::Words(words) => {
                let words = words.join(" ");
                cases += &format!(
                    "        {flag}) mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$current\"); return ;;\n"
                );
            }
            Values::Files => files.push(flag.clone()),
            Values::Unknown => unknown.push(flag.clone()),
        }
        all.push(flag);
    }
    all.extend(program.switches().iter().map(|(flag, _)| (*flag).to_owned()));
    let mut before = String::new();
    if program.runs_a_command {
        all.push("--".into());
        before = "    local at\n    \
            for ((at = 1; at < COMP_CWORD; at++)); do\n        \
            [[ ${COMP_WORDS[at]} == -- ]] || continue\n        \
            if ((at + 1 == COMP_CWORD)); then\n            \
            mapfile -t COMPREPLY < <(compgen -c -- \"$current\")\n        \
            else\n            \
            compopt -o filenames\n            \
            mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n        \
            fi\n        \
            return\n    \
            done\n"
            .into();
    } else {
        all.extend(program.tasks.iter().map(|(task, _)| (*task).to_owned()));
        files.extend(program.tasks_with_file.iter().map(|task| (*task).to_owned()));
    }
    format!(
        "{}{function}() {{\n    \
         local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}\n\
         {before}    \
         # To bash, --flag=value is three words.\n    \
         if [[ $current == = ]]; then\n        \
         current=\n    \
         elif [[ $previous == = ]]; then\n        \
         previous=${{COMP_WORDS[COMP_CWORD - 2]}}\n    \
         fi\n    \
         case $previous in\n\
         {cases}        \
         {}) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$current\"); return ;;\n        \
         {}) COMPREPLY=(); return ;;\n    \
         esac\n    \
         mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$current\")\n\
         }}\n\
         complete -F {function} {name}\n",
        start(program),
        files.join(" | "),
        unknown.join(" | "),
        all.join(" "),
    )
}

pub fn zsh(program: &Program) -> String {
    // zsh gives colons and brackets in a specification a meaning of their own.
    let plain = |text: &str| {
        let text = text.replace('\'', "'\\''");
        text.replace(':', "\\:").replace('[', "\\[").replace(']', "\\]")
    };
    let mut text = format!("#compdef {}\n{}_arguments -S \\\n", program.name, start(program));
    for (flag, help, values) in flags(program) {
        let action = match values {
            Values::Words(words) => format!("({})", words.join(" ")),
            Values::Files => "_files".into(),
            Values::Unknown => " ".into(),
        };
        text += &format!("    '{flag}=[{}]:value:{action}' \\\n", plain(&help));
    }
    for (flag, help) in program.switches() {
        text += &format!("    '{flag}[{}]' \\\n", plain(&help));
    }
    text += &if program.runs_a_command {
        "    '*::: :_normal'\n".to_owned()
    } else {
        let tasks: Vec<_> = program.tasks.iter().map(|(task, help)| format!("{task}\\:\"{help}\"")).collect();
        format!("    '1:task:(({}))' \\\n    '2:file:_files'\n", tasks.join(" "))
    };
    text
}

pub fn fish(program: &Program) -> String {
    let name = program.name;
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = format!("{}complete -c {name} -f\n", start(program));
    for (flag, help, values) in flags(program) {
        let values = match values {
            Values::Words(words) => format!("-x -a {}", quoted(&words.join(" "))),
            Values::Files => "-r -F".into(),
            Values::Unknown => "-x".into(),
        };
        text += &format!("complete -c {name} -l {} {values} -d {}\n", &flag[2..], quoted(&help));
    }
    for (flag, help) in program.switches() {
        text += &format!("complete -c {name} -l {} -d {}\n", &flag[2..], quoted(&help));
    }
    text += &if program.runs_a_command {
        format!(
            "complete -c {name} -n 'contains -- -- (commandline -opc)' -x -a '(__fish_complete_command)'\n"
        )
    } else {
        let task = |(task, help): &(&str, &str)| {
            format!("complete -c {name} -n __fish_use_subcommand -a {task} -d {}\n", quoted(help))
        };
        let tasks: String = program.tasks.iter().map(task).collect();
        let file = |task| format!("complete -c {name} -n '__fish_seen_subcommand_from {task}' -F\n");
        tasks + &program.tasks_with_file.iter().map(file).collect::<String>()
    };
    text
}
