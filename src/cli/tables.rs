//! Tables that fit the terminal. On a narrow one the less important columns are left out; if the others do not fit either, each row is
//! printed as a block with one field on a line. No word and no id is broken.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use unicode_width::UnicodeWidthStr as _;

use super::output::{DIM, line};

/// A cell with several words is not made narrower than this for the sake of an optional column.
const COMFORTABLE: usize = 20;

/// The blanks between two columns; the second number is for a terminal on which the first is too much.
const GAPS: [u16; 2] = [2, 1];

/// The cell of a field that has nothing to say.
const NOTHING: &str = "-";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    /// 0: always printed. Of the others, those with small numbers are left out last.
    rank: u8,
    is_one_of: bool,
    is_whole: bool,
    is_right: bool,
}

impl Column {
    /// A column that is always printed.
    pub(super) const fn always(title: &'static str) -> Self {
        Self { title, rank: 0, is_one_of: false, is_whole: false, is_right: false }
    }

    /// A column that is left out if it does not fit. Those with great ranks are left out first.
    pub(super) const fn optional(title: &'static str, rank: u8) -> Self {
        Self { rank, ..Self::always(title) }
    }

    /// A column by which a reader recognises a row: at least one of those is printed.
    pub(super) const fn one_of(title: &'static str, rank: u8) -> Self {
        Self { is_one_of: true, ..Self::optional(title, rank) }
    }

    /// The same column with each cell on one line.
    pub(super) const fn whole(self) -> Self {
        Self { is_whole: true, ..self }
    }

    /// The same column of numbers: on one line and on the right.
    pub(super) const fn right(self) -> Self {
        Self { is_whole: true, is_right: true, ..self }
    }
}

/// A column that is printed, and how much room it needs.
struct Placed {
    column: Column,
    at: usize,
    /// The narrowest width that breaks no word.
    narrowest: usize,
    /// A width at which the table is still easy to read.
    comfortable: usize,
}

/// The lines of a table, without blanks at their ends. Without a width every column is printed, and no cell is wrapped.
pub(super) fn table_of<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: Option<u16>) -> String {
    let placed = || columns.iter().enumerate().map(|(at, column)| Placed::of(*column, at, rows));
    let Some(width) = width else { return drawn(&placed().collect::<Vec<_>>(), rows, None, GAPS[0]) };
    let room = usize::from(width);
    let Some((mut printed, gap)) = least(placed().collect(), room) else {
        return blocks(columns, rows, width);
    };
    let is_printed = |placed: &Placed| printed.iter().any(|printed| printed.at == placed.at);
    let mut optional: Vec<_> = placed().filter(|placed| !is_printed(placed)).collect();
    optional.sort_by_key(|placed| placed.column.rank);
    let mut left_out = Vec::new();
    let comfortable = |placed: &Placed| placed.comfortable + usize::from(gap);
    let mut used: usize = printed.iter().map(comfortable).sum();
    for placed in optional {
        // The last column has no gap behind it.
        let with_it = used + comfortable(&placed);
        if with_it <= room + usize::from(gap) {
            used = with_it;
            printed.push(placed);
        } else {
            left_out.push(placed);
        }
    }
    printed.sort_by_key(|placed| placed.at);
    left_out.sort_by_key(|placed| placed.at);
    let mut text = drawn(&printed, rows, Some(width), gap);
    if !left_out.is_empty() {
        let titles: Vec<_> = left_out.iter().map(|placed| placed.column.title).collect();
        line(&mut text, format_args!("{DIM}not shown: {}{DIM:#}", titles.join(", ")));
    }
    text
}

/// The columns that are printed at least, and the gap between them; `None` if they do not fit.
fn least(all: Vec<Placed>, room: usize) -> Option<(Vec<Placed>, u16)> {
    let mut choices: Vec<Option<usize>> =
        all.iter().filter(|placed| placed.column.is_one_of).map(|placed| Some(placed.at)).collect();
    if choices.is_empty() {
        choices.push(None);
    }
    let mut narrowest_first = choices.clone();
    narrowest_first.sort_by_key(|choice| choice.map(|at| all[at].narrowest));
    let is_printed = |placed: &Placed, choice: Option<usize>| placed.column.rank == 0 || choice == Some(placed.at);
    let fits = |choice: Option<usize>, gap: u16, width_of: fn(&Placed) -> usize| {
        let widths: Vec<usize> = all.iter().filter(|placed| is_printed(placed, choice)).map(width_of).collect();
        widths.iter().sum::<usize>() + usize::from(gap) * widths.len().saturating_sub(1) <= room
    };
    let [wide, narrow] = GAPS;
    // A blank less between the columns is better than a column less, if it is enough for all of them.
    let all_fit = |gap: u16| {
        let widths: usize = all.iter().map(|placed| placed.comfortable + usize::from(gap)).sum();
        widths <= room + usize::from(gap)
    };
    if let Some(gap) = GAPS.into_iter().find(|&gap| all_fit(gap)) {
        return Some((all, gap));
    }
    let find = |choices: &[Option<usize>], gap: u16, width_of| {
        choices.iter().find(|&&choice| fits(choice, gap, width_of)).map(|&choice| (choice, gap))
    };
    let (choice, gap) = find(&choices, wide, |placed| placed.comfortable)
        .or_else(|| find(&choices, narrow, |placed| placed.comfortable))
        .or_else(|| find(&narrowest_first, narrow, |placed| placed.narrowest))?;
    Some((all.into_iter().filter(|placed| is_printed(placed, choice)).collect(), gap))
}

impl Placed {
    fn of<const N: usize>(column: Column, at: usize, rows: &[[String; N]]) -> Self {
        let widest = |width_of: fn(&str) -> usize| rows.iter().map(|row| width_of(&row[at])).max().unwrap_or(0);
        let longest_word = |text: &str| text.split(' ').map(|word| word.width()).max().unwrap_or(0);
        let title = column.title.width();
        let content = widest(|text| text.width()).max(title);
        let narrowest = if column.is_whole { content } else { widest(longest_word).max(title) };
        Self { column, at, narrowest, comfortable: narrowest.max(content.min(COMFORTABLE)) }
    }
}

fn empty(width: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

fn drawn<const N: usize>(printed: &[Placed], rows: &[[String; N]], width: Option<u16>, gap: u16) -> String {
    let mut table = empty(width);
    table.set_header(printed.iter().map(|placed| placed.column.title));
    for row in rows {
        table.add_row(printed.iter().map(|placed| &row[placed.at]));
    }
    let last = printed.len().saturating_sub(1);
    for (position, placed) in printed.iter().enumerate() {
        let Some(column) = table.column_mut(position) else { continue };
        let gap = if position == last { 0 } else { gap };
        column.set_padding((0, gap));
        column.set_constraint(if placed.column.is_whole {
            ColumnConstraint::ContentWidth
        } else {
            let narrowest = u16::try_from(placed.narrowest).unwrap_or(u16::MAX);
            ColumnConstraint::LowerBoundary(Width::Fixed(narrowest.saturating_add(gap)))
        });
        if placed.column.is_right {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines_of(&table)
}

/// Each row as a block: one field on a line, and an empty line behind the block. A field that has nothing to say is left out.
fn blocks<const N: usize>(columns: &[Column; N], rows: &[[String; N]], width: u16) -> String {
    let block = |row: &[String; N]| {
        let fields: Vec<_> = columns
            .iter()
            .zip(row)
            .filter(|(_, cell)| *cell != NOTHING)
            .map(|(column, cell)| [column.title.to_owned(), cell.clone()])
            .collect();
        let parts = [Column::always("").whole(), Column::always("")];
        let placed: Vec<_> = parts.iter().enumerate().map(|(at, column)| Placed::of(*column, at, &fields)).collect();
        // A word that is longer than the line goes beyond its end: the terminal shows it, and a copy of it is whole.
        let needed = placed.iter().map(|placed| placed.narrowest).sum::<usize>() + usize::from(GAPS[0]);
        let width = u16::try_from(needed).unwrap_or(u16::MAX).max(width);
        // The table has no header.
        let drawn = drawn(&placed, &fields, Some(width), GAPS[0]);
        drawn.split_once('\n').map_or_else(String::new, |(_header, fields)| format!("{fields}\n"))
    };
    rows.iter().map(block).collect()
}

/// The lines of a table, without blanks at their ends.
fn lines_of(table: &Table) -> String {
    let rows: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    rows.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::always("LINK").whole(), Column::optional("FOR", 1).whole(), Column::always("NEXT")];

    fn rows() -> [[String; 3]; 1] {
        [["a".repeat(20), "25 h".to_owned(), "reminder in 2 days".to_owned()]]
    }

    fn shown(width: Option<u16>) -> String {
        anstream::adapter::strip_str(&table_of(&COLUMNS, &rows(), width)).to_string()
    }

    #[test]
    fn a_narrow_terminal_leaves_out_columns_and_breaks_no_word() {
        let id = "a".repeat(20);
        assert_eq!(shown(None), format!("LINK{:18}FOR   NEXT\n{id}  25 h  reminder in 2 days\n", ""));
        assert_eq!(shown(Some(46)), shown(None), "it just fits");
        assert_eq!(shown(Some(44)), format!("LINK{:17}FOR  NEXT\n{id} 25 h reminder in 2 days\n", ""));
        assert_eq!(shown(Some(43)), format!("LINK{:18}NEXT\n{id}  reminder in 2 days\nnot shown: FOR\n", ""));
        let wrapped = format!("LINK{:17}NEXT\n{id} reminder\n{:21}in 2\n{:21}days\nnot shown: FOR\n", "", "", "");
        assert_eq!(shown(Some(29)), wrapped);
    }

    #[test]
    fn one_of_the_columns_that_tell_rows_apart_is_printed() {
        let columns = [Column::always("LINK"), Column::one_of("BANK", 1), Column::one_of("USER", 2)];
        let titles = |bank: &str, user: &str, width: u16| {
            let text = table_of(&columns, &[["id", bank, user].map(str::to_owned)], Some(width));
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(titles("erebor", "ana", 18), "LINK BANK USER");
        assert_eq!(titles("erebor", "ana", 15), "LINK BANK");
        assert_eq!(titles("erebor", "ana", 10), "LINK USER");
        assert_eq!(titles("erebor", "a-long-id", 11), "LINK BANK");
        assert_eq!(titles("erebor", "ana", 8), "LINK id", "neither fits: a block");
    }

    #[test]
    fn a_row_that_does_not_fit_is_a_block_and_an_id_stays_whole() {
        let id = "a".repeat(20);
        assert_eq!(shown(Some(28)), format!("LINK  {id}\nFOR   25 h\nNEXT  reminder in 2 days\n\n"));
        assert_eq!(shown(Some(10)), shown(Some(26)), "a line that is too long is not broken");
    }
}
