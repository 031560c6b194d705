//! People who do not exist, drawn from a seeded generator.

use super::words::{CITIES, FIRST_NAMES, LAST_NAMES, STREETS};

/// SplitMix64: small, and the same on every machine. For made-up data only, never for keys.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to, and without, `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.next() % u64::from(end.max(1))).unwrap_or(0)
    }

    /// True `percent` times in a hundred.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let len = u32::try_from(from.len()).unwrap_or(u32::MAX);
        from[self.below(len) as usize]
    }

    pub(super) fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from_digit(self.below(10), 10).unwrap_or('0')).collect()
    }

    /// Letters and digits, as tokens are made of.
    pub(super) fn token(&mut self, count: usize) -> String {
        const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
        (0..count).map(|_| char::from(self.pick(ALPHABET))).collect()
    }

    /// A day between two years, as `1987-04-23`.
    pub(super) fn day(&mut self, first: u32, last: u32) -> String {
        format!("{}-{:02}-{:02}", first + self.below(last - first + 1), 1 + self.below(12), 1 + self.below(28))
    }

    pub(super) fn moment(&mut self) -> String {
        let day = self.day(2021, 2026);
        format!("{day}T{:02}:{:02}:{:02}Z", self.below(24), self.below(60), self.below(60))
    }
}

pub(super) struct Person {
    pub(super) first: &'static str,
    pub(super) last: &'static str,
    pub(super) email: String,
    pub(super) phone: String,
    pub(super) birth: String,
    pub(super) address: Address,
}

pub(super) struct Address {
    pub(super) street: String,
    pub(super) postcode: String,
    pub(super) city: &'static str,
    pub(super) country: &'static str,
}

impl Person {
    /// `number` keeps the e-mail address apart from everybody else's.
    pub(super) fn new(random: &mut Random, number: u32) -> Self {
        let (first, last) = (random.pick(FIRST_NAMES), random.pick(LAST_NAMES));
        let domain = random.pick(&["example.com", "example.com", "example.org", "example.net"]);
        let address = Address::new(random);
        Self {
            first,
            last,
            email: format!("{}.{}{number}@{domain}", plain(first), plain(last)),
            phone: phone(random, address.country),
            birth: random.day(1938, 2006),
            address,
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}", self.first, self.last)
    }

    /// Puts the person into a text.
    pub(super) fn tell(&self, text: &str) -> String {
        text.replace("{name}", &self.name())
            .replace("{phone}", &self.phone)
            .replace("{email}", &self.email)
            .replace("{birth}", &self.birth)
            .replace("{street}", &self.address.street)
    }
}

impl Address {
    pub(super) fn new(random: &mut Random) -> Self {
        let (city, area, country) = random.pick(CITIES);
        let (street, number) = (random.pick(STREETS), 1 + random.below(180));
        let street = match country {
            "DE" => format!("{street}straße {number}"),
            "FR" => format!("{number} rue {street}"),
            _ => format!("{number} {street} {}", random.pick(&["Street", "Road", "Lane", "Avenue"])),
        };
        let postcode = match country {
            "GB" => {
                format!("{area} {}{}{}", random.below(10), random.pick(&['A', 'B', 'D']), random.pick(&['X', 'Y', 'H']))
            }
            _ => format!("{area}{}", random.digits(3)),
        };
        Self { street, postcode, city, country }
    }
}

/// A number in a range that the country's authority keeps for films and books.
fn phone(random: &mut Random, country: &str) -> String {
    match country {
        "GB" if random.chance(50) => format!("+44 20 7946 0{}", random.digits(3)),
        "GB" => format!("+44 7700 900{}", random.digits(3)),
        "DE" => format!("+49 30 23125 {}", random.digits(3)),
        "FR" => format!("+33 6 39 98 00 {}", random.digits(2)),
        _ => format!("+1 {} 555 01{}", random.pick(&["212", "312", "503", "512"]), random.digits(2)),
    }
}

/// A card number under a test prefix, with its Luhn digit (ISO/IEC 7812-1).
pub(super) fn card(random: &mut Random) -> String {
    let body = format!("{}{}", random.pick(&["424242", "555555"]), random.digits(9));
    let sum: u32 = body
        .chars()
        .rev()
        .enumerate()
        .map(|(i, c)| {
            let digit = c.to_digit(10).unwrap_or(0) << ((i + 1) % 2);
            digit / 10 + digit % 10
        })
        .sum();
    format!("{body}{}", (10 - sum % 10) % 10)
}

/// An IBAN at the bank `TEST`, with its check digits (ISO 13616: mod 97 of the rearranged number is 1).
pub(super) fn iban(random: &mut Random) -> String {
    let account = format!("TEST{}", random.digits(14));
    let rest = format!("{account}GB00").chars().fold(0, |rest, c| {
        let digit = c.to_digit(36).unwrap_or(0);
        (rest * if digit > 9 { 100 } else { 10 } + digit) % 97
    });
    format!("GB{:02}{account}", 98 - rest)
}

/// A documentation address: RFC 5737, RFC 3849.
pub(super) fn ip(random: &mut Random) -> String {
    if random.chance(15) {
        return format!("2001:db8::{:x}:{:x}", random.below(0xffff), random.below(0xffff));
    }
    format!("{}.{}", random.pick(&["192.0.2", "198.51.100", "203.0.113"]), random.below(256))
}

/// A name as it stands in an e-mail address.
fn plain(name: &str) -> String {
    name.chars()
        .filter_map(|c| match c.to_lowercase().next().unwrap_or(c) {
            'á' | 'à' | 'ä' | 'å' => Some('a'),
            'é' | 'è' | 'ë' | 'ê' => Some('e'),
            'í' | 'ì' => Some('i'),
            'ó' | 'ö' | 'ø' => Some('o'),
            'ü' | 'ú' => Some('u'),
            c if c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        })
        .collect()
}
