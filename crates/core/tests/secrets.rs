//! What holds a key or a value can be neither printed nor copied nor written anywhere; the compiler checks it.

use std::fmt::{Debug, Display};

use enfold_core::index::BlindIndex;
use enfold_core::mac::RowMac;
use enfold_core::wrap::{KeyUnwrap, KeyWrap, WrapContext};
use enfold_core::{Binding, DataKey, Opened, Opener, OwnedPart, Part, RecordSealer, SealItem, Sealer};
use serde::Serialize;
use zeroize::ZeroizeOnDrop;

/// Does not compile when the type has the trait: both impls would fit, and which is meant could not be told.
macro_rules! never {
    ($trait:path: $($type:ty),+ $(,)?) => { $(
        const _: fn() = || {
            trait Either<Which> { fn is() {} }
            impl<T: ?Sized> Either<()> for T {}
            struct Has;
            impl<T: ?Sized + $trait> Either<Has> for T {}
            <$type as Either<_>>::is()
        };
    )+ };
}

never!(Debug: DataKey, Sealer, Opener, RecordSealer, KeyWrap, KeyUnwrap, RowMac, BlindIndex, Opened);
never!(Display: DataKey, Sealer, Opener, RecordSealer, KeyWrap, KeyUnwrap, RowMac, BlindIndex, Opened);
never!(Clone: DataKey, Sealer, Opener, RecordSealer, KeyWrap, KeyUnwrap, RowMac, BlindIndex, Opened);
never!(Serialize: DataKey, Sealer, Opener, RecordSealer, KeyWrap, KeyUnwrap, RowMac, BlindIndex, Opened);
// Tenants and row keys are a customer's.
never!(Debug: Binding, Part<'static>, OwnedPart, WrapContext, SealItem<'static>);

fn shared<T: Send + Sync>() {}
fn wiped<T: ZeroizeOnDrop>() {}

#[test]
fn keys_are_wiped_on_drop_and_everything_is_shared_between_threads() {
    wiped::<DataKey>();
    wiped::<zeroize::Zeroizing<Vec<u8>>>();
    let _: fn(Opened) -> zeroize::Zeroizing<Vec<u8>> = |opened| opened.plaintext;
    shared::<Sealer>();
    shared::<Opener>();
    shared::<RecordSealer>();
    shared::<KeyWrap>();
    shared::<KeyUnwrap>();
    shared::<RowMac>();
    shared::<BlindIndex>();
}
