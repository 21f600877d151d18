//! Colours of a terminal's lines.

use std::fmt::Display;

use clap::ColorChoice;

use crate::environment::Environment;

/// Whether a stream is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Colour(bool);

/// What a part of a line is painted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// What is seldom read.
    Dim,
    /// An event's type.
    Kind,
    /// Something that went wrong.
    Alarm,
    /// One of several names, each of which has a colour of its own as far as there are enough.
    Name(usize),
}

impl Colour {
    /// Decides by the option, then by what the environment asks for, then by the stream.
    pub fn choose(option: ColorChoice, environment: &Environment, is_terminal: bool) -> Self {
        Colour(match option {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if environment.no_colour => false,
            ColorChoice::Auto if environment.force_colour => true,
            ColorChoice::Auto => environment.clicolor != Some(false) && is_terminal,
        })
    }

    /// The text, painted if the stream is coloured.
    pub fn paint(self, paint: Paint, text: impl Display) -> String {
        /// Foreground colours that can be read on a light and on a dark ground.
        const NAMES: [u8; 5] = [36, 35, 34, 33, 32];
        let code = match paint {
            _ if !self.0 => return text.to_string(),
            Paint::Dim => 2,
            Paint::Kind => 1,
            Paint::Alarm => 31,
            Paint::Name(number) => NAMES[number % NAMES.len()],
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_goes_before_the_environment_and_that_before_the_terminal() {
        let none = Environment::default();
        let no_colour = Environment { no_colour: true, ..none.clone() };
        let off = Environment { clicolor: Some(false), ..none.clone() };
        let forced = Environment { force_colour: true, ..none.clone() };
        for (option, environment, terminal, want) in [
            (ColorChoice::Auto, &none, true, true),
            (ColorChoice::Auto, &none, false, false),
            (ColorChoice::Auto, &no_colour, true, false),
            (ColorChoice::Auto, &off, true, false),
            (ColorChoice::Auto, &forced, false, true),
            (ColorChoice::Always, &no_colour, false, true),
            (ColorChoice::Never, &forced, true, false),
        ] {
            assert_eq!(Colour::choose(option, environment, terminal), Colour(want), "{option}");
        }
        assert_eq!(Colour(false).paint(Paint::Alarm, "x"), "x");
        assert_eq!(Colour(true).paint(Paint::Alarm, "x"), "\x1b[31mx\x1b[0m");
    }
}
