//! Random dtypes for property tests.

use proptest::prelude::*;

use super::literal::Literal;

fn scalar() -> impl Strategy<Value = Literal> {
    let sized = prop::sample::select(vec![
        "b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "f12", "f16", "c8",
        "c16", "c24", "c32", "S1", "S7", "U1", "U3", "V1", "V5", "M8[ns]", "m8[25us]", "M8", "?",
        "d", "h",
    ]);
    ("[<>=|]", sized).prop_map(|(order, name)| Literal::Str(format!("{order}{name}")))
}

/// The value of a `descr` that is accepted, of at most a few hundred bytes an item.
pub(crate) fn descr() -> impl Strategy<Value = Literal> {
    let leaf = scalar().boxed();
    leaf.prop_recursive(3, 12, 4, |inner| {
        let shape = prop::collection::vec(1..4i128, 0..3);
        let field = (inner, shape, any::<(bool, bool)>());
        prop::collection::vec(field, 0..4).prop_map(record)
    })
}

fn record(fields: Vec<(Literal, Vec<i128>, (bool, bool))>) -> Literal {
    let mut list = Vec::new();
    for (i, (descr, shape, (titled, padded))) in fields.into_iter().enumerate() {
        let text = |text: String| Literal::Str(text);
        let mut name = text(format!("f'{i}é\n"));
        if titled {
            name = Literal::Tuple(vec![text(format!("title {i}")), name]);
        }
        let mut field = vec![name, descr];
        if !shape.is_empty() {
            field.push(Literal::Tuple(
                shape.into_iter().map(Literal::Int).collect(),
            ));
        }
        list.push(Literal::Tuple(field));
        if padded {
            list.push(Literal::Tuple(vec![text("".into()), text("|V3".into())]));
        }
    }
    Literal::List(list)
}

/// The same dtype in the other byte order throughout.
pub(crate) fn flip(descr: &Literal) -> Literal {
    match descr {
        Literal::Str(text) => Literal::Str(match text.split_at_checked(1) {
            Some((">", rest)) => format!("<{rest}"),
            Some(("<", rest)) => format!(">{rest}"),
            Some((_, rest)) if cfg!(target_endian = "big") => format!("<{rest}"),
            Some((_, rest)) => format!(">{rest}"),
            None => text.clone(),
        }),
        Literal::List(fields) => Literal::List(fields.iter().map(flip_field).collect()),
        other => other.clone(),
    }
}

fn flip_field(field: &Literal) -> Literal {
    let Literal::Tuple(parts) = field else {
        return field.clone();
    };
    let mut parts = parts.clone();
    if let Some(descr) = parts.get_mut(1) {
        *descr = flip(descr);
    }
    Literal::Tuple(parts)
}
