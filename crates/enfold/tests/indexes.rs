//! Two generations of a blind index, as an application sees them: what is stored and what is looked for.

mod common;

use common::{POLICY, World, code, who};
use enfold::{Code, Enfold, IndexRequest, Part, Place};

const ACME: Place<'static> = Place::tenant(Part::Text("acme"));
const EMAIL: &str = "users.email";
/// Bytes of a value: generation and 256 bits.
const LEN: usize = 34;

async fn stored(enfold: &Enfold, value: &str) -> Vec<u8> {
    enfold.column(EMAIL).unwrap().index_to_store(&who(), "eq", &ACME, value).await.unwrap()
}

async fn wanted(enfold: &Enfold, value: &str) -> Vec<Vec<u8>> {
    enfold.column(EMAIL).unwrap().lookup(&who(), "eq", &ACME, value).await.unwrap()
}

#[tokio::test]
async fn every_process_stores_and_looks_for_both_generations_within_a_second_and_one_after_the_cut() {
    let world = World::new();
    let (operators, application) = (world.operators().await, world.application().await.unwrap());
    let first = stored(&application, "Ann").await;
    assert_eq!(first[..2], [0, 1]);

    let operator = operators.operator().unwrap();
    let standing = operator.begin_index(EMAIL, "eq", &who()).await.unwrap();
    assert_eq!((standing.now.generation, standing.next.as_ref().map(|next| next.generation)), (1, Some(2)));
    let again = operator.begin_index(EMAIL, "eq", &who()).await.unwrap();
    assert_eq!(again.next, standing.next, "one rotation, however often it is begun");
    assert_eq!(stored(&application, "Ann").await, first, "a state is believed for a second");
    world.next_look();
    let both = stored(&application, "ann").await;
    assert_eq!((&both[..LEN], &both[LEN..LEN + 2]), (&first[..], &[0, 2][..]));
    assert_eq!(wanted(&application, "ANN").await, [both[..LEN].to_vec(), both[LEN..].to_vec()]);
    assert_ne!(both[2..LEN], both[LEN + 2..], "another key");

    let eq = operators.index(EMAIL, "eq").unwrap();
    let request = [IndexRequest { place: ACME, values: &["ann"] }];
    for (generation, value) in [(1, &both[..LEN]), (2, &both[LEN..])] {
        assert_eq!(eq.of_generation_many(&who(), generation, &request).await.remove(0).unwrap(), [value]);
    }
    assert_eq!(code(eq.of_generation_many(&who(), 3, &request).await.remove(0)), Code::Busy);

    operator.cut_index(EMAIL, "eq", 2, &who()).await.unwrap();
    world.next_look();
    assert_eq!(stored(&application, "ann").await, both[LEN..]);
    assert_eq!(wanted(&application, "ann").await, [both[LEN..].to_vec()]);
    assert_eq!(code(eq.of_generation_many(&who(), 1, &request).await.remove(0)), Code::Busy);

    assert_eq!(operator.disable_former_indexes(EMAIL, "eq", &who()).await.unwrap(), 1);
    assert_eq!(operator.disable_former_indexes(EMAIL, "eq", &who()).await.unwrap(), 0);
    world.next_look();
    assert_eq!(stored(&application, "ann").await, both[LEN..], "the key of the present one is left alone");
}

#[tokio::test]
async fn what_was_given_up_leaves_the_former_values_and_another_number_for_the_next() {
    let world = World::new();
    let operators = world.operators().await;
    let operator = operators.operator().unwrap();
    let first = stored(&operators, "ann").await;
    operator.begin_index(EMAIL, "eq", &who()).await.unwrap();
    let second = stored(&operators, "ann").await[LEN..].to_vec();
    operator.give_up_index(EMAIL, "eq", 2, &who()).await.unwrap();
    assert_eq!(stored(&operators, "ann").await, first);
    operator.begin_index(EMAIL, "eq", &who()).await.unwrap();
    let third = stored(&operators, "ann").await[LEN..].to_vec();
    assert_eq!(third[..2], [0, 3]);
    assert_ne!(third[2..], second[2..], "a key of its own");
}

#[tokio::test]
async fn rules_that_were_signed_hold_whatever_a_policy_says_until_a_generation_by_the_new_ones_takes_over() {
    let world = World::new();
    let operators = world.operators().await;
    let ann = stored(&operators, "ann").await;
    let signed = operators.operator().unwrap().sign_index(EMAIL, "eq", &who()).await.unwrap();
    assert!(signed.signed && signed.as_in_policy);

    let changed = POLICY.replace(r#"normalise = ["trim", "lower"]"#, r#"normalise = ["trim"]"#);
    let changed = world.builder_for(world.policy(&changed)).build().await.unwrap();
    assert!(!changed.index_standing(EMAIL, "eq").await.unwrap().as_in_policy);
    assert_eq!(stored(&changed, " ANN ").await, ann, "by the rules that were signed");
    let operator = changed.operator().unwrap();
    assert!(operator.begin_index(EMAIL, "eq", &who()).await.unwrap().as_in_policy);
    world.next_look();
    // A process that has the former policy still knows both.
    for process in [&operators, &changed] {
        let (lower, upper) = (stored(process, "ann").await, stored(process, "ANN").await);
        assert_eq!((&lower[..LEN], &upper[..LEN]), (&ann[..], &ann[..]));
        assert_ne!(lower[LEN..], upper[LEN..], "case counts by the new rules");
    }
}

#[tokio::test]
async fn an_index_is_named_by_its_owner_and_its_name_or_by_a_column_that_has_one_only() {
    let enfold = World::new().operators().await;
    let named = (EMAIL.to_owned(), "eq".to_owned());
    assert_eq!(enfold.index_named("users.email.eq").unwrap(), named);
    assert_eq!(enfold.index_named(EMAIL).unwrap(), named);
    for name in ["users.name", "users.email.no", "users", ""] {
        assert_eq!(code(enfold.index_named(name)), Code::UnknownColumn);
    }
    let all = enfold.indexes().await.unwrap();
    assert_eq!(all.iter().map(enfold::IndexStanding::full_name).collect::<Vec<_>>(), ["users.email.eq"]);
}
