//! What `doctor` says of readers of other products' formats: whether their keys are there, and whether anything needs them.

use enfold::{ReaderHealth, Result};

use super::Found;
use crate::words::some;

pub(super) fn found(health: ReaderHealth) -> Result<Found> {
    let ReaderHealth { reader, columns, needed_by, roots, table, ready } = health;
    let has = match (&table, roots.as_slice()) {
        (None, []) => "its keys are there and well-formed".to_owned(),
        (None, roots) => format!("{} answers, and lets this process decrypt", roots.join(", ")),
        (Some(table), []) => format!("its keys stand in `{table}`"),
        (Some(table), roots) => {
            format!("its keys are named in `{table}`; {} may be called, and let this process decrypt", roots.join(", "))
        }
    };
    if needed_by > 0 {
        let needs =
            if needed_by == 1 { "1 column needs it".to_owned() } else { format!("{needed_by} columns need it") };
        ready?;
        return Ok(format!("{has}; {needs}").into());
    }
    let why = match columns {
        0 => "no column names it".to_owned(),
        _ => format!(
            "it is not needed any more: the operators signed that {} can hold no value of it",
            some(columns, "column")
        ),
    };
    // A key that is gone where nothing needs it is as it should be.
    let Ok(()) = ready else { return Ok(why.into()) };
    let says = format!("{has}; {why}");
    Ok(Found::warning(
        says,
        vec![format!(
            "take its keys from this process and see it start without, then `[readers.{reader}]` from the policy"
        )],
    ))
}

#[cfg(test)]
mod tests {
    use enfold::{Code, Error};

    use super::*;

    fn health(needed_by: usize, root: Option<&str>, ready: Result<()>) -> ReaderHealth {
        let roots = root.into_iter().map(str::to_owned).collect();
        ReaderHealth { reader: "old".into(), columns: 2, needed_by, roots, table: None, ready }
    }

    #[test]
    fn a_key_must_be_there_as_long_as_a_column_needs_it_and_should_go_afterwards() {
        let missing = || Err(Error::new(Code::ReaderKeyInvalid, "reader `old` has no usable key"));
        assert!(found(health(1, None, missing())).is_err());
        let needed = found(health(1, None, Ok(()))).unwrap();
        assert!(!needed.warns && needed.says.contains("1 column needs it"), "{}", needed.says);
        let root = found(health(2, Some("vault://h/transit/k"), Ok(()))).unwrap();
        assert!(root.says.starts_with("vault://h/transit/k answers") && root.says.ends_with("2 columns need it"));
        assert!(!found(health(0, None, missing())).unwrap().warns);
        let left = found(health(0, None, Ok(()))).unwrap();
        assert!(left.warns && left.hints[0].contains("`[readers.old]`"));
    }
}
