//! The page with the tables of settings, of one program or several.

use pap_process::settings::{Fallback, Setting};

use crate::program::Program;

/// The page about these programs, after its first words.
pub fn write(start: &str, programs: &[Program]) -> String {
    let mut text = start.to_owned();
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
