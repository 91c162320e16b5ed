//! The brand of the page: name, logo, colours, return address and support, all from the configuration.

use std::fmt;
use std::str::FromStr;

/// The brand. Every part is optional.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Brand {
    /// The name of the customer's product.
    pub name: Option<String>,
    /// The logo.
    pub logo: Option<Logo>,
    /// The colour of the button on a light and on a dark page.
    pub colors: [Color; 2],
    /// Where the user goes when all is set.
    pub return_url: Option<String>,
    /// An e-mail address, an `https` address, or a text such as a telephone number.
    pub support: Option<String>,
    /// The customer's terms; Belvo requires them for the renewal of a consent.
    pub terms_url: Option<String>,
}

/// A logo, served by relink, so that the page loads nothing from elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Logo {
    /// The media type.
    pub media_type: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Logo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Logo({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

impl Logo {
    /// The media type of a file with this extension; `None` if browsers show no image for it.
    pub fn media_type(extension: &str) -> Option<&'static str> {
        match extension.to_ascii_lowercase().as_str() {
            "svg" => Some("image/svg+xml"),
            "png" => Some("image/png"),
            "jpg" | "jpeg" => Some("image/jpeg"),
            "webp" => Some("image/webp"),
            _ => None,
        }
    }
}

/// A colour in sRGB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color([u8; 3]);

impl Default for Color {
    fn default() -> Self {
        Self([0x0b, 0x5f, 0xa5])
    }
}

impl FromStr for Color {
    type Err = ();

    /// Reads `#rrggbb`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii()).ok_or(())?;
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| ());
        Ok(Self([byte(0)?, byte(2)?, byte(4)?]))
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [red, green, blue] = self.0;
        write!(f, "#{red:02x}{green:02x}{blue:02x}")
    }
}

impl Color {
    /// Black or white, whichever can be read better on this colour. The contrast is at least 4.58, which is enough for
    /// text of any size (WCAG 2.2, 1.4.3).
    pub fn text_on(self) -> Self {
        let [red, green, blue] = self.0.map(|value| {
            let value = f64::from(value) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        });
        let luminance = 0.212_6 * red + 0.715_2 * green + 0.072_2 * blue;
        // At this luminance both have the same contrast: (1.05 / (l + 0.05)) = ((l + 0.05) / 0.05).
        if luminance > 0.179 { Self([0, 0, 0]) } else { Self([255, 255, 255]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_color_is_read_and_its_text_can_be_read() {
        for (color, text) in
            [("#0b5fa5", "#ffffff"), ("#ffd400", "#000000"), ("#FFFFFF", "#000000"), ("#000000", "#ffffff")]
        {
            let color: Color = color.parse().unwrap();
            assert_eq!(color.text_on().to_string(), text, "{color}");
        }
        for bad in ["", "red", "#fff", "0b5fa5", "#0b5fa", "#0b5fag", "#0b5fa5;", "#ééé"] {
            assert_eq!(bad.parse::<Color>(), Err(()), "{bad}");
        }
    }
}
