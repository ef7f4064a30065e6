//! The segments of a file up to each scan → what the decoder must know: components, tables, colours.

use super::super::markers::{END_OF_IMAGE, next_marker, segment};
use super::fault::Fault;
use super::huffman::{FirstTable, Table};

/// Components of the pictures that are decoded here: grey, and three for colour.
pub const MOST_COMPONENTS: usize = 3;

/// Where the n-th coefficient of a block lies, row by row (ITU T.81, figure A.6). A run past the last leads to a place
/// behind the block.
pub const ZIGZAG: [u8; 256] = {
    const PLACES: [u8; 64] = [
        0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14,
        21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60,
        61, 54, 47, 55, 62, 63,
    ];
    let mut places = [64; 256];
    let mut at = 0;
    while at < PLACES.len() {
        places[at] = PLACES[at];
        at += 1;
    }
    places
};

/// What the numbers of three components mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Grey,
    YCbCr,
    Rgb,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Component {
    id: u8,
    /// Blocks of one MCU, across and down.
    pub across: usize,
    pub down: usize,
    pub quantisation: usize,
    pub dc: usize,
    pub ac: usize,
}

/// Everything up to the coded data. Kept from file to file, because most share their tables.
#[derive(Debug)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    components: [Component; MOST_COMPONENTS],
    count: usize,
    /// Row by row, not in the file's order.
    pub quantisation: [[i16; 64]; 4],
    pub dc: [FirstTable; 4],
    pub ac: [Table; 4],
    defined: Defined,
    /// MCUs between restart markers; 0 for none.
    pub restart: usize,
    is_jfif: bool,
    adobe: Option<u8>,
    pub is_progressive: bool,
    /// The scan whose header was read last.
    pub scan: Scan,
    /// Where what comes next begins: after a header, the coded data.
    pub at: usize,
}

/// What a scan holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    components: [usize; MOST_COMPONENTS],
    count: usize,
    /// Coefficients, in the file's order.
    pub first: usize,
    pub last: usize,
    /// Bits of the coefficients that scans before have left, 0 for the first; and those that this one leaves.
    pub before: u32,
    pub left: u32,
}

impl Scan {
    /// The numbers of its components.
    pub fn components(&self) -> &[usize] {
        &self.components[..self.count]
    }
}

/// Which tables the file has brought; one left over from another file is none.
#[derive(Clone, Copy, Debug, Default)]
struct Defined {
    quantisation: [bool; 4],
    dc: [bool; 4],
    ac: [bool; 4],
}

impl Default for Picture {
    fn default() -> Self {
        Self {
            width: 0,
            height: 0,
            components: Default::default(),
            count: 0,
            quantisation: [[0; 64]; 4],
            dc: Default::default(),
            ac: Default::default(),
            defined: Defined::default(),
            restart: 0,
            is_jfif: false,
            adobe: None,
            is_progressive: false,
            scan: Scan::default(),
            at: 0,
        }
    }
}

impl Picture {
    /// Reads the segments up to and with the header of the first scan.
    ///
    /// # Errors
    /// [`Fault::Unusual`] for what is left to other decoders; the rest is damage.
    pub fn begin(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        (self.count, self.restart, self.is_jfif, self.adobe, self.defined) = (0, 0, false, None, Defined::default());
        (self.scan, self.at) = (Scan::default(), 2);
        if !self.next_scan(bytes)? {
            return Err(Fault::Short);
        }
        let scan = &self.scan;
        let is_whole = scan.count == self.count && (scan.first, scan.last, scan.before, scan.left) == (0, 63, 0, 0);
        // Sequential pictures in several scans are rare.
        if self.is_progressive || is_whole { Ok(()) } else { Err(Fault::Unusual) }
    }

    /// Reads on to the coded data of the next scan; `false` at the end.
    ///
    /// # Errors
    /// As [`Picture::begin`].
    pub fn next_scan(&mut self, bytes: &[u8]) -> Result<bool, Fault> {
        while let Some((marker, after)) = next_marker(bytes, self.at) {
            match marker {
                END_OF_IMAGE => return Ok(false),
                0xD0..=0xD8 | 0x01 => return Err(Fault::Unusual),
                _ => {}
            }
            let segment = segment(bytes, after).ok_or(Fault::Short)?;
            self.at = after + 2 + segment.len();
            match marker {
                0xC0..=0xC2 => {
                    self.is_progressive = marker == 0xC2;
                    self.frame(segment)?;
                }
                0xC4 => self.huffman(segment)?,
                // A component keeps the table of its first scan; other decoders see to that.
                0xDB if self.scan.count > 0 => return Err(Fault::Unusual),
                0xDB => self.quantisation(segment)?,
                0xDD => self.restart = usize::from(u16::from_be_bytes(*segment.first_chunk().ok_or(Fault::Tables)?)),
                0xDA => return self.scan(segment).map(|()| true),
                // As long as libjpeg asks for, and before the first scan.
                0xE0 if self.scan.count == 0 => self.is_jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
                0xEE if self.scan.count == 0 && segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                    self.adobe = Some(segment[11]);
                }
                0xC3..=0xCF => return Err(Fault::Unusual),
                _ => {}
            }
        }
        Ok(false)
    }

    pub fn components(&self) -> &[Component] {
        &self.components[..self.count]
    }

    /// The most blocks that a component has in an MCU, across and down.
    pub fn most(&self) -> (usize, usize) {
        let most = |of: fn(&Component) -> usize| self.components().iter().map(of).max().unwrap_or(1);
        (most(|component| component.across), most(|component| component.down))
    }

    /// As libjpeg guesses it: JFIF knows one kind, Adobe's marker tells, and so may the components' names.
    pub fn colour(&self) -> Colour {
        match self.components() {
            [_] => Colour::Grey,
            _ if self.is_jfif => Colour::YCbCr,
            _ if self.adobe == Some(0) => Colour::Rgb,
            [r, g, b] if self.adobe.is_none() && [r.id, g.id, b.id] == *b"RGB" => Colour::Rgb,
            _ => Colour::YCbCr,
        }
    }

    fn frame(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let &[8, high, low, wide, narrow, count, ref components @ ..] = segment else {
            return Err(Fault::Unusual);
        };
        if self.count != 0 || !matches!(count, 1 | 3) || components.len() != usize::from(count) * 3 {
            return Err(Fault::Unusual);
        }
        self.height = usize::from(u16::from_be_bytes([high, low]));
        self.width = usize::from(u16::from_be_bytes([wide, narrow]));
        self.count = usize::from(count);
        for (component, fields) in self.components.iter_mut().zip(components.chunks_exact(3)) {
            let (across, down) = (usize::from(fields[1] >> 4), usize::from(fields[1] & 15));
            if !matches!(across, 1 | 2 | 4) || !matches!(down, 1 | 2 | 4) || fields[2] > 3 {
                return Err(Fault::Unusual);
            }
            let quantisation = usize::from(fields[2]);
            *component = Component { id: fields[0], across, down, quantisation, ..Component::default() };
        }
        if count == 1 {
            // A scan of one component goes block by block, whatever its factors.
            (self.components[0].across, self.components[0].down) = (1, 1);
        }
        // An MCU has at most ten blocks (B.2.3), which also bounds what a factor of four can cost.
        let blocks: usize = self.components().iter().map(|component| component.across * component.down).sum();
        let empty = self.width == 0 || self.height == 0;
        if empty || blocks > 10 {
            return Err(Fault::Unusual);
        }
        Ok(())
    }

    fn huffman(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((kind, rest)) = segment.split_first() {
            let counts = rest.first_chunk::<16>().ok_or(Fault::Tables)?;
            let length = 16 + counts.iter().map(|count| usize::from(*count)).sum::<usize>();
            let (definition, rest) = rest.split_at_checked(length).ok_or(Fault::Tables)?;
            let (is_dc, number) = (kind >> 4 == 0, usize::from(kind & 15));
            if kind >> 4 > 1 || number > 3 {
                return Err(Fault::Tables);
            }
            if is_dc {
                self.dc[number].define(definition)?;
                self.defined.dc[number] = true;
            } else {
                self.ac[number].define(definition)?;
                self.defined.ac[number] = true;
            }
            segment = rest;
        }
        Ok(())
    }

    fn quantisation(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let Some((kind, rest)) = segment.split_first() {
            let number = usize::from(kind & 15);
            let wide = usize::from(kind >> 4);
            let table = self.quantisation.get_mut(number).filter(|_| wide < 2).ok_or(Fault::Tables)?;
            let (values, rest) = rest.split_at_checked(64 << wide).ok_or(Fault::Tables)?;
            for (place, value) in values.chunks_exact(1 << wide).enumerate() {
                let factor = value.iter().fold(0, |number, byte| number << 8 | u16::from(*byte));
                table[usize::from(ZIGZAG[place]) & 63] = factor as i16;
            }
            self.defined.quantisation[number] = true;
            segment = rest;
        }
        Ok(())
    }

    fn scan(&mut self, segment: &[u8]) -> Result<(), Fault> {
        let (count, rest) = segment.split_first().ok_or(Fault::Short)?;
        let (selectors, spectrum) = rest.split_at_checked(usize::from(*count) * 2).ok_or(Fault::Short)?;
        let &[first, last, bits] = spectrum else { return Err(Fault::Tables) };
        let mut scan = Scan {
            first: first.into(),
            last: last.into(),
            before: (bits >> 4).into(),
            left: (bits & 15).into(),
            ..Scan::default()
        };
        if self.count == 0
            || *count == 0
            || usize::from(*count) > self.count
            || scan.first > scan.last
            || scan.last > 63
        {
            return Err(Fault::Tables);
        }
        for selector in selectors.chunks_exact(2) {
            let number = self.components().iter().position(|component| component.id == selector[0]);
            let number = number.ok_or(Fault::Tables)?;
            // In the order of the frame, and none twice.
            if scan.components().last().is_some_and(|before| *before >= number) {
                return Err(Fault::Unusual);
            }
            scan.components[scan.count] = number;
            scan.count += 1;
            let component = &mut self.components[number];
            (component.dc, component.ac) = (usize::from(selector[1] >> 4), usize::from(selector[1] & 15));
            self.take_tables(number, &scan)?;
        }
        self.scan = scan;
        Ok(())
    }

    /// Files without tables, as motion JPEG has them, rely on the standard's own.
    fn take_tables(&mut self, number: usize, scan: &Scan) -> Result<(), Fault> {
        let Component { dc, ac, quantisation, .. } = self.components[number];
        let defined = |of: &[bool; 4], number: usize| of.get(number) == Some(&true);
        let has_first = scan.first > 0 || scan.before > 0 || defined(&self.defined.dc, dc);
        let has_others = scan.last == 0 || defined(&self.defined.ac, ac);
        if !has_first || !has_others || !defined(&self.defined.quantisation, quantisation) {
            return Err(Fault::Unusual);
        }
        if scan.last > 0 {
            self.ac[ac].make_ready(!self.is_progressive);
        }
        Ok(())
    }
}
