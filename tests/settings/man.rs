//! docs/man: a page of section 8 for each program.

use pap_process::settings::{Fallback, Setting};

use crate::program::Program;

/// The page about one program.
pub fn write(program: &Program) -> String {
    let name = program.name;
    let mut page = Page(format!(
        ".\\\" Made from the tables of settings: {}\n\
         .TH {} 8 \"\" \"{name} {}\" \"System Administration\"\n",
        program.writes_docs(),
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION"),
    ));
    page.section("NAME");
    page.line(&format!("{} \\- {}", roff(name), roff(program.summary)));
    page.section("SYNOPSIS");
    for (at, line) in program.synopsis.iter().enumerate() {
        if at > 0 {
            page.line(".br");
        }
        page.line(&format!("\\fB{}\\fR {}", roff(name), roff(line)));
    }
    page.section("DESCRIPTION");
    for (at, paragraph) in program.description.iter().enumerate() {
        if at > 0 {
            page.line(".PP");
        }
        page.line(&roff(paragraph));
    }
    page.section("OPTIONS");
    for (task, help) in program.tasks {
        page.entry(task, &sentence(help));
    }
    for (flag, help, value, _) in program.options() {
        page.entry(&format!("{flag} {}", value.to_uppercase()), &sentence(&help));
    }
    for (flag, help) in program.switches() {
        page.entry(flag, &sentence(&help));
    }
    page.section("ENVIRONMENT");
    page.line(&roff(
        "Each setting is a flag, or the environment variable beside it. The flag wins. \
         --name VALUE and --name=VALUE mean the same. An empty value counts as not set.",
    ));
    for setting in program.table {
        page.setting(&setting.flag(), setting.name, &sentence(setting.help()));
        page.line(".br");
        page.line(&roff(&format!("{} Allowed: {}.", default(setting), setting.allowed())));
        if let Some((variable, flag)) = setting.file() {
            page.setting(&flag, &variable, &format!("The file that holds {}.", setting.name));
        }
    }
    page.section("EXIT STATUS");
    for (code, meaning) in &program.codes {
        page.entry(code, meaning);
    }
    page.section("SIGNALS");
    for (signals, effect) in program.signals {
        page.entry(signals, effect);
    }
    page.section("FILES");
    for (file, content) in program.files {
        page.entry(file, content);
    }
    page.section("SEE ALSO");
    page.line(&roff(program.see_also));
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.line(&format!(".SH {}", if name.contains(' ') { format!("\"{name}\"") } else { name.into() }));
    }

    fn entry(&mut self, term: &str, text: &str) {
        self.line(".TP");
        self.line(&format!("\\fB{}\\fR", roff(term)));
        self.line(&roff(text));
    }

    fn setting(&mut self, flag: &str, variable: &str, text: &str) {
        self.line(".TP");
        self.line(&format!("\\fB{}\\fR \\fIVALUE\\fR, \\fB{}\\fR", roff(flag), roff(variable)));
        self.line(&roff(text));
    }
}

/// Escapes text, so that roff shows it unchanged.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    // roff takes a line that begins with a dot for a request.
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

fn sentence(part: &str) -> String {
    let mut letters = part.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn default(setting: &Setting) -> String {
    match setting.fallback {
        Fallback::Required => "Required.".into(),
        Fallback::Value(value) => format!("Default: {value}."),
        Fallback::Words(words) => format!("Default: {words}."),
    }
}
