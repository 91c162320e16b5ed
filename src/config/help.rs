//! The settings in `relink serve --help`. Next: `catalogue.rs` has the table.

use super::catalogue::all_settings;

/// The text for `--help`: variable, key, flag, description and default of each setting.
pub fn help() -> String {
    let mut text = String::from(
        "Settings. A flag wins over the environment, the environment over the file, the file over the default.\n\
         In the file, the part before the dot is the table: `[http]` and under it `listen = \"…\"`.\n",
    );
    for setting in all_settings() {
        let default = setting.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let flag = setting.flag.map(|flag| format!(", {flag}")).unwrap_or_default();
        text.push_str(&format!("\n  {}, {}{flag}\n      {}{default}\n", setting.variable, setting.key, setting.about));
    }
    text
}
