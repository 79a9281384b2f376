//! Instruction set levels. A kernel is written for a level, never for a loose feature, and this file holds the one
//! table of what each level needs.

use std::fmt;
use std::sync::OnceLock;

/// An instruction set level, slowest first. A machine that has a level has all levels before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// What every machine of the build target has; the compiler vectorizes the scalar code as it can.
    Portable,
    /// 256-bit integer and float vectors: Haswell (2013), Zen 1 (2017) and later.
    Avx2,
    /// 512-bit vectors with int8 dot products: Cascade Lake (2019), Zen 4 (2022) and later.
    Avx512Vnni,
    /// Matrix tiles of bf16: Sapphire Rapids (2023) and later, under an operating system that gives them away.
    Amx,
}

/// A level's name and what the CPU must report for it.
struct Level {
    isa: Isa,
    name: &'static str,
    features: &'static str,
    detected: fn() -> bool,
}

/// A level of x86-64, of features that the compiler knows and, where it does not, of more with their own detection.
macro_rules! level {
    ($isa:ident, $name:literal, [$($feature:tt),*] $(, $more:literal, $detected:path)?) => {
        Level {
            isa: Isa::$isa,
            name: $name,
            features: concat!($($feature, " ",)* $($more,)?),
            #[cfg(target_arch = "x86_64")]
            detected: || true $(&& is_x86_feature_detected!($feature))* $(&& $detected())?,
            #[cfg(not(target_arch = "x86_64"))]
            detected: || false,
        }
    };
}

/// The one feature table. `#[target_feature]` attributes under `cpu/<isa>/` repeat its lists; a test compares them.
const LEVELS: [Level; 4] = [
    Level { isa: Isa::Portable, name: "portable", features: "", detected: || true },
    level!(Avx2, "avx2", ["avx2", "fma", "f16c"]),
    level!(
        Avx512Vnni,
        "avx512vnni",
        ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"]
    ),
    level!(
        Amx,
        "amx",
        [
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "avx512bf16",
            "avx512vbmi",
            "avx2",
            "fma",
            "f16c"
        ],
        "amx-tile amx-bf16",
        crate::cpu::amx::detected
    ),
];

/// A level that was asked for by name and cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum IsaError {
    /// No level has this name.
    #[error("unknown ISA level '{0}'; the levels are {known}", known = Isa::names())]
    Unknown(String),
    /// The CPU lacks a feature of this level.
    #[error("this CPU does not have the ISA level {0} ({features}); leave it out to use {best}", features = .0.features(), best = Isa::best())]
    Unsupported(Isa),
}

impl Isa {
    /// All levels, slowest first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512Vnni, Isa::Amx];

    fn level(self) -> &'static Level {
        &LEVELS[self as usize]
    }

    /// The name that `BRAISE_ISA` and `--isa` take.
    pub fn name(self) -> &'static str {
        self.level().name
    }

    /// The CPU features that the level needs, separated by blanks; empty for the portable level.
    pub fn features(self) -> &'static str {
        self.level().features.trim_end()
    }

    /// Whether this CPU (and its operating system) has the level.
    pub fn is_supported(self) -> bool {
        (self.level().detected)()
    }

    /// The fastest level of this CPU.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            LEVELS.iter().take_while(|l| (l.detected)()).last().map_or(Isa::Portable, |l| l.isa)
        })
    }

    /// The level of this name, if this CPU has it.
    ///
    /// # Errors
    /// The name is unknown, or the CPU lacks the level. There is no fallback to a slower one.
    pub fn by_name(name: &str) -> Result<Isa, IsaError> {
        let level =
            LEVELS.iter().find(|l| l.name == name).ok_or_else(|| IsaError::Unknown(name.to_owned()))?;
        if !level.isa.is_supported() {
            return Err(IsaError::Unsupported(level.isa));
        }
        Ok(level.isa)
    }

    fn names() -> String {
        LEVELS.map(|l| l.name).join(", ")
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (isa, level) in Isa::ALL.iter().zip(&LEVELS) {
            assert_eq!(*isa, level.isa);
        }
    }

    #[test]
    fn an_unknown_level_is_an_error_that_lists_the_known_ones() {
        let message = Isa::by_name("avx3").unwrap_err().to_string();
        assert!(message.contains("avx3") && message.contains("portable, avx2, avx512vnni, amx"), "{message}");
    }

    #[test]
    fn the_best_level_can_be_asked_for_by_its_name() {
        assert_eq!(Isa::by_name(Isa::best().name()).unwrap(), Isa::best());
        assert_eq!(Isa::by_name("portable").unwrap(), Isa::Portable);
    }
}
