//! docs/configuration.md.

use pap_process::settings::{Fallback, Setting};

use crate::program::Program;

const START: &str = "\
# Configuration

<!-- Made from src/config/settings.rs and src/emitter/settings.rs:
     PAP_WRITE_DOCS=1 cargo test -p pap-collector --test settings -->

Each setting is an environment variable and a flag: `CLUSTER_ID=dev`, `--cluster-id dev` and `--cluster-id=dev` mean the same. A flag
wins over the environment. An empty value counts as not set.

- **A key** also comes from a file, which `..._FILE` names: other users of the machine can see flags, and often variables, but not the file.
- **A wrong value** stops the start with exit code 78, before anything runs. One line on standard error names the variable, the value and
  what is allowed. So do an unknown flag and a flag without a value.
- **What is in effect** is printed by `--check-config`, keys hidden; it ends with 0 when the configuration is good.
";

/// The page about both programs.
pub fn write(programs: &[Program]) -> String {
    let mut text = START.to_owned();
    for program in programs {
        text += &format!("\n## {}\n\n", program.name);
        text += "| Variable | Flag | Default | Allowed | What it does |\n|---|---|---|---|---|\n";
        for setting in program.table {
            row(
                &mut text,
                &[
                    &format!("`{}`", setting.name),
                    &format!("`{}`", setting.flag()),
                    &default(setting),
                    &setting.allowed(),
                    setting.help(),
                ],
            );
            if let Some((variable, flag)) = setting.file() {
                let help = format!("the file that holds `{}`", setting.name);
                row(
                    &mut text,
                    &[
                        &format!("`{variable}`"),
                        &format!("`{flag}`"),
                        "none",
                        "a file that holds a key, or a pipe that gives it within 5 s",
                        &help,
                    ],
                );
            }
        }
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    *text += &format!("| {} |\n", cells.join(" | "));
}

fn default(setting: &Setting) -> String {
    match setting.fallback {
        Fallback::Required => "required".into(),
        Fallback::Value(value) => format!("`{value}`"),
        Fallback::Words(words) => words.into(),
    }
}
