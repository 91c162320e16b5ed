//! The settings of the repair page: `[repair]`, `RELINK_REPAIR_*`.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::HOUR;
use super::address::is_http;
use super::reader::Reader;
use crate::repair::{Brand, Color, KEY_LENGTH_MIN, Logo, RepairLinks};

/// The most keys: one that signs, and the previous one during a rotation.
const KEYS_MAX: usize = 2;

/// The settings of the repair page.
#[derive(Clone, Debug)]
pub struct RepairConfig {
    /// `RELINK_REPAIR_BASE_URL`, `RELINK_REPAIR_KEYS`, `RELINK_REPAIR_EXPIRES`: signs and verifies the links.
    pub links: RepairLinks,
    /// `RELINK_REPAIR_NAME`, `RELINK_REPAIR_LOGO`, `RELINK_REPAIR_COLORS`, `RELINK_REPAIR_RETURN_URL`,
    /// `RELINK_REPAIR_SUPPORT`, `RELINK_REPAIR_TERMS_URL`: the brand of the page.
    pub brand: Brand,
    /// `RELINK_REPAIR_WIDGET`: where Belvo's widget opens.
    pub widget: WidgetPlace,
    /// `RELINK_REPAIR_SCRIPT_URL`: the address of Belvo's program for [`WidgetPlace::Page`].
    pub script_url: String,
}

/// Where Belvo's widget opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WidgetPlace {
    /// On Belvo's hosted page, to which the browser is redirected. Works without JavaScript of relink.
    Hosted,
    /// On relink's page, by Belvo's program. The widget token is in no address.
    Page,
}

impl FromStr for WidgetPlace {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "hosted" => Ok(Self::Hosted),
            "page" => Ok(Self::Page),
            _ => Err(()),
        }
    }
}

/// The largest logo, in bytes.
const LOGO_BYTES_MAX: usize = 256 << 10;

/// Returns `None` if the page is switched off, or if a problem was noted.
pub(super) fn read(reader: &mut Reader, has_belvo_keys: bool) -> Option<RepairConfig> {
    let keys = reader.secrets("repair.keys");
    let expires = reader.span_within("repair.expires", HOUR..=Duration::from_secs(90 * 86_400));
    let base_url = reader.text("repair.base_url");
    let brand = read_brand(reader);
    let widget = reader.parsed("repair.widget", "hosted or page").unwrap_or(WidgetPlace::Hosted);
    let script_url = read_url(reader, "repair.script_url").unwrap_or_default();
    let is_base = |url: &String| is_http(url) && !url.contains(['?', '#']);
    if base_url.as_ref().is_some_and(|url| !is_base(url)) {
        let problem = "must be an address without user, query and fragment, such as https://relink.example.com";
        reader.reject("repair.base_url", problem);
    }
    match (&base_url, keys.len()) {
        (None, 0) => return None,
        (None, _) => {
            reader.reject("repair.keys", "also needs repair.base_url (RELINK_REPAIR_BASE_URL)");
            return None;
        }
        (Some(_), 0) => reader.reject("repair.base_url", "also needs repair.keys (RELINK_REPAIR_KEYS)"),
        (Some(_), 1..=KEYS_MAX) => {}
        (Some(_), _) => reader.reject("repair.keys", "must be one or two keys"),
    }
    if keys.iter().any(|key| key.expose_secret().len() < KEY_LENGTH_MIN) {
        reader.reject("repair.keys", format!("must have at least {KEY_LENGTH_MIN} characters each; use random ones"));
    }
    if !has_belvo_keys {
        reader.reject("repair.base_url", "also needs belvo.url, belvo.secret_id and belvo.secret_password");
    }
    Some(RepairConfig { links: RepairLinks::new(&base_url?, &keys, expires), brand, widget, script_url })
}

fn read_brand(reader: &mut Reader) -> Brand {
    let logo = reader
        .text("repair.logo")
        .and_then(|path| read_logo(Path::new(&path)).map_err(|problem| reader.reject("repair.logo", problem)).ok());
    let colors: Vec<Option<Color>> = reader.texts("repair.colors").iter().map(|color| color.parse().ok()).collect();
    let colors = match *colors {
        [] => <[Color; 2]>::default(),
        [Some(both)] => [both, both],
        [Some(light), Some(dark)] => [light, dark],
        _ => {
            reader
                .reject("repair.colors", "must be one or two colours such as #0b5fa5, for a light and for a dark page");
            <[Color; 2]>::default()
        }
    };
    Brand {
        name: reader.text("repair.name"),
        logo,
        colors,
        return_url: read_url(reader, "repair.return_url"),
        support: reader.text("repair.support"),
        terms_url: read_url(reader, "repair.terms_url"),
    }
}

/// An address that a browser opens. `javascript:` and `data:` are refused.
fn read_url(reader: &mut Reader, key: &'static str) -> Option<String> {
    let url = reader.text(key)?;
    if !is_http(&url) {
        reader.reject(key, "must be an address such as https://app.example.com/banks");
    }
    Some(url)
}

fn read_logo(path: &Path) -> Result<Logo, String> {
    let media_type = path.extension().and_then(|extension| Logo::media_type(&extension.to_string_lossy()));
    let media_type = media_type.ok_or("must be the path of a .svg, .png, .jpg or .webp file")?;
    let bytes = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > LOGO_BYTES_MAX {
        return Err(format!("has {} bytes; the page takes at most {LOGO_BYTES_MAX}", bytes.len()));
    }
    Ok(Logo { media_type, bytes })
}
