//! Every word that a plan or a residue report may say, in one table: [`Word`] for findings, [`Kind`] for residue.
//!
//! `docs/reference/plan-findings.md` is written from here; a test fails when it is stale.

use crate::database::{Finding, Residue};

/// What a finding does to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The column, or the whole table, is not converted until it is settled.
    Refuses,
    /// Nothing stops; somebody should read it first.
    Warns,
    /// A refusal until the policy, or the table's owner, has settled it; a warning afterwards.
    Depends,
}

impl Effect {
    /// As the reference prints it.
    pub const fn word(self) -> &'static str {
        match self {
            Effect::Refuses => "refuses",
            Effect::Warns => "warns",
            Effect::Depends => "refuses until settled",
        }
    }
}

macro_rules! words {
    ($( $name:ident = $word:literal, $effect:ident, $meaning:literal, $way_out:literal; )*) => {
        /// The closed set of a plan's findings. The word is stable: scripts match on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Word { $( #[doc = $meaning] $name, )* }

        impl Word {
            /// Every word, in the order of the reference.
            pub const ALL: &'static [Word] = &[ $( Word::$name, )* ];
            /// The stable word.
            pub const fn word(self) -> &'static str { match self { $( Word::$name => $word, )* } }
            /// What it does to a plan.
            pub const fn effect(self) -> Effect { match self { $( Word::$name => Effect::$effect, )* } }
            /// What it means, wherever it is found.
            pub const fn meaning(self) -> &'static str { match self { $( Word::$name => $meaning, )* } }
            /// The way out in general; a finding may carry a more exact one.
            pub const fn way_out(self) -> &'static str { match self { $( Word::$name => $way_out, )* } }
        }
    };
}

words! {
    CharN = "char-n", Refuses,
        "The type is char(n), which pads and cuts every value to one length.",
        "change the type to text first, or name a `shadow` for it in the policy, which keeps its blanks";
    Array = "array", Refuses,
        "The column is an array, which takes elements of its own type only.",
        "name a `shadow` for it in the policy: the array is sealed as one value";
    Enum = "enum", Refuses,
        "An enum takes its own labels only.",
        "name a `shadow` for it in the policy, or change the type to text first";
    TypedValue = "typed-value", Refuses,
        "The type (a date, a number, a uuid, an address, …) has no room for an envelope.",
        "name a `shadow` for it in the policy, or change the type to text";
    Shadow = "shadow", Warns,
        "The type cannot hold an envelope, so envelopes go to the shadow that the policy names. Of the two one at most holds a value: a trigger empties the shadow when a writer changes only the column, and the column when one changes only the shadow. Who reads the column alone finds NULL; a statement that sets it to NULL where it is NULL does not reach the sealed value.",
        "have every reader look into the shadow first, and every writer write there";
    ShadowNotNull = "shadow-not-null", Warns,
        "The column is NOT NULL. The plan drops that, and a check that either the column or its shadow holds a value takes its place; rollback brings it back.",
        "have applications cope with NULL in the column";
    ShadowType = "shadow-type", Refuses,
        "The column that is to be the shadow is there and cannot be one: it is neither text nor bytea, or it is generated, or has a default.",
        "name another column as the shadow, and the plan adds it";
    ShadowNeedless = "shadow-needless", Refuses,
        "The policy names a shadow for a column that can hold envelopes itself.",
        "take `shadow` out of the policy of the column";
    ShadowDialect = "shadow-dialect", Refuses,
        "Shadows are kept on Postgres only. In SQLite a type goes with each value, and a column declared TEXT takes every one of them as text.",
        "take `shadow` out of the policy, and have the column declared TEXT or BLOB";
    ShadowBoth = "shadow-both", Refuses,
        "Rows hold a value in the column and another in its shadow; which one is right is not known.",
        "empty one of the two in those rows";
    CompanionRequired = "companion-required", Refuses,
        "A column that holds a part of the values of another product is NOT NULL or generated, so it cannot be emptied when a value becomes an envelope.",
        "drop its NOT NULL, or take the column out of `companions`";
    CompanionType = "companion-type", Refuses,
        "A column that holds a part of the values of another product is of a type in which that part cannot be read: what belongs to a value is spelled as the value is, and what names a key is text, a whole number or a uuid.",
        "change its type, or convert its values";
    OtherType = "other-type", Refuses,
        "A type that Enfold does not know how to convert.",
        "change the type to text, bytea or jsonb first";
    JsonPath = "json-path", Refuses,
        "The policy names a member of a JSON column that cannot be converted alone: the column is json, which keeps the spelling of a document, where setting a member would respell all of it; or it is on SQLite, which keeps JSON as text; or the path is written into the column's name.",
        "make the column jsonb and name the member by `within` and `path`, or name the whole column";
    DomainCheck = "domain-check", Refuses,
        "A check of the column's domain refuses envelopes.",
        "drop the check from the domain, or change the column's type to the domain's base type";
    DomainWidened = "domain-widened", Warns,
        "The plan changes the column from its domain to text, because the domain does not take envelopes; the domain's rule is no longer applied to it.",
        "apply the rule in the application, before the value is sealed";
    Widened = "widened", Warns,
        "The plan changes varchar(n) to text, because an envelope is longer than the value; the length is no longer limited.",
        "limit the length in the application, before the value is sealed";
    Inheritance = "inheritance", Refuses,
        "The table inherits from another or is inherited from. That is refused for good: checks, new columns and changes of type reach every child, while keys, indexes, foreign keys, triggers and rights reach none, and a child may have several parents. So nothing that is proved of one table holds for the tree, and rows are counted through each parent.",
        "detach each child with ALTER TABLE … NO INHERIT and protect it by itself, or turn the tree into a partitioned table";
    NotATable = "not-a-table", Refuses,
        "A view, a foreign table or another thing that has no rows of its own.",
        "name the table that holds the rows";
    ForeignPartition = "foreign-partition", Refuses,
        "A partition is a foreign table; its rows cannot be converted from here.",
        "detach it, and protect it where it is";
    PartitionKey = "partition-key", Refuses,
        "The column decides in which partition a row is; an envelope would send it elsewhere.",
        "partition by another column first";
    PrimaryKey = "primary-key", Refuses,
        "The column is part of the primary key.",
        "give the table a key that says nothing about anybody, and make the column merely unique";
    UniqueWithoutBlindIndex = "unique-without-blind-index", Refuses,
        "The database keeps the column unique, and equal values become different envelopes.",
        "add a blind index with `unique = true` to the column's policy; it is filled and validated before the first value is sealed";
    ExclusionConstraint = "exclusion-constraint", Refuses,
        "An exclusion constraint compares the column; it cannot compare envelopes.",
        "drop the constraint first";
    ForeignKey = "foreign-key", Refuses,
        "The column refers to another table's column; an envelope refers to nothing.",
        "drop the foreign key, or refer to a key that is not protected";
    ReferencedKey = "referenced-key", Refuses,
        "Another table's foreign key refers to this column, so the values are there too.",
        "have the other table refer to a key that is not protected";
    CheckConstraint = "check-constraint", Refuses,
        "A check constraint refuses envelopes.",
        "drop the constraint, and check the value in the application before it is sealed";
    CheckBlind = "check-blind", Warns,
        "A check constraint takes every envelope, so that it no longer checks the value.",
        "check the value in the application before it is sealed";
    PlaintextDefault = "plaintext-default", Refuses,
        "The column has a default that is not an envelope; rows that rely on it would be refused, or be plain.",
        "drop the default, and have the application write the value";
    GeneratedColumn = "generated-column", Refuses,
        "A generated column is computed from this one and cannot be computed from an envelope, or stands in the way of the new type.",
        "drop the generated column";
    GeneratedRecomputed = "generated-recomputed", Warns,
        "A generated column is computed from this one; it will be computed from the envelope and mean nothing.",
        "drop the generated column, or use a blind index in its place";
    GeneratedItself = "generated-itself", Refuses,
        "The column is generated by the database.",
        "turn it into an ordinary column with ALTER TABLE … ALTER COLUMN … DROP EXPRESSION (or DROP IDENTITY)";
    IndexRefuses = "index-refuses", Refuses,
        "An index computes an expression over the column that fails on an envelope.",
        "drop the index";
    IndexUseless = "index-useless", Warns,
        "An index over the column finds nothing once values are sealed, and keeps plaintext until it is dropped.",
        "drop the index after the conversion; look up by a blind index";
    IndexTooLong = "index-too-long", Warns,
        "The envelopes of this column's longest values are over the 2,704 bytes that an index entry may have, so the index has to go before the conversion.",
        "drop the index before the conversion";
    IndexColumnType = "index-column-type", Refuses,
        "The column that is to hold a blind index exists and is not bytea.",
        "name another column for the blind index in the policy";
    View = "view", Warns,
        "A view reads the column and will hand out envelopes.",
        "have its readers open the values, or take the column out of the view";
    ViewBlocksWidening = "view-blocks-widening", Refuses,
        "A view or rule reads the column, and Postgres does not change a column's type below a view.",
        "drop the view, change the column's type to text, and create the view again";
    MaterialisedView = "materialised-view", Warns,
        "A materialised view holds a copy of the column, in plaintext until it is refreshed.",
        "refresh it after the conversion, then search it with audit --residue";
    FunctionReads = "function-reads", Warns,
        "A function in the database mentions the table and the column.",
        "read it; SQL inside the database cannot open envelopes";
    Rule = "rule", Refuses,
        "A rule rewrites statements on the table, so that a conversion may do something else, or write elsewhere.",
        "drop the rule, or replace it with a trigger";
    RowSecurityHides = "row-security-hides", Refuses,
        "Row-level security hides rows from this role; it would count and convert only what it sees.",
        "run as a role with BYPASSRLS, or as the owner where the table does not force it";
    RowSecurity = "row-security", Warns,
        "The table has row-level security; this role is not subject to it.",
        "run every worker as a role that is not subject to it either";
    RowSecurityReads = "row-security-reads", Refuses,
        "A row-level security policy reads the column; it would judge envelopes, and hide or show the wrong rows.",
        "rewrite the policy over another column";
    MissingRight = "missing-right", Refuses,
        "This role may not read and change the table.",
        "grant SELECT and UPDATE on the table";
    NotOwner = "not-owner", Warns,
        "This role does not own the table, so that it cannot change its definition.",
        "have the owner run the statements that `enfold plan --print-sql` prints";
    ColumnGrants = "column-grants", Warns,
        "Rights are granted column by column; a new blind-index column is not among them.",
        "grant the application's role the rights it needs on the new column";
    ReplicaIdentityMissing = "replica-identity-missing", Refuses,
        "The table publishes its updates and has no replica identity, so that Postgres refuses every UPDATE.",
        "give it a primary key, or set a replica identity";
    ReplicaIdentityColumn = "replica-identity-column", Refuses,
        "The replica identity is an index over the column; subscribers would no longer find the rows.",
        "set the replica identity to an index over other columns";
    ReplicaIdentityFull = "replica-identity-full", Warns,
        "REPLICA IDENTITY FULL writes the old row with every change: the plaintext goes into the write-ahead log and to every logical subscriber once more.",
        "set another replica identity for the time of the conversion";
    Publication = "publication", Warns,
        "The table is published: subscribers get every converted row, as envelopes, and keep older plaintext until then.",
        "make subscribers ready for envelopes first, and widen their columns";
    PublicationFilter = "publication-filter", Refuses,
        "A publication filters rows by the column; it would judge envelopes.",
        "rewrite the publication's WHERE over another column";
    RowTrigger = "row-trigger", Depends,
        "A row trigger fires when a row is converted: a history trigger copies the old plaintext elsewhere, a rewriting one destroys the envelope.",
        "read it, then say `fire` for it in the policy, or have its owner change it";
    StatementTrigger = "statement-trigger", Depends,
        "A statement trigger fires with every converted batch; with a transition table it sees the old values.",
        "read it, then say `fire` for it in the policy, or have its owner change it";
    Partitioned = "partitioned", Warns,
        "The table is partitioned: each partition is converted on its own, and rows that move between them meanwhile are found by the closing sweep.",
        "attach no partition that was not converted while the job runs; a detached one has to be named in the policy";
    Unlogged = "unlogged", Warns,
        "The table is unlogged: after a crash it is empty, whatever the job had counted.",
        "run verify after a crash";
    WithoutRowid = "without-rowid", Refuses,
        "A SQLite table without row ids: rows cannot be told apart while they are converted.",
        "copy it into an ordinary table, then plan again";
    Encoding = "encoding", Refuses,
        "The SQLite database is encoded in UTF-16; stored bytes are compared and counted as UTF-8.",
        "copy it into a new file with `.dump` and `.read`, which makes it UTF-8";
    UpdateFails = "update-fails", Refuses,
        "SQLite cannot prepare an UPDATE of the column here: a trigger, an index or a generated column needs a function or a collation that only the application defines.",
        "drop what needs it, or rewrite it with SQLite's own functions";
    OtherClasses = "other-classes", Warns,
        "Some values have another storage class than the column's type (SQLite allows that): each becomes a row error.",
        "change them with CAST first, or settle their row errors afterwards";
    FullText = "full-text", Warns,
        "A full-text table indexes the column and keeps its words in tables of its own.",
        "drop the full-text table after the conversion, or protect nothing that has to be searched by words";
    ColumnsAdded = "columns-added", Warns,
        "The table gets columns for blind indexes: an INSERT without a column list fails, and SELECT * returns them.",
        "name the columns in the application's statements";
    OneWriter = "one-writer", Warns,
        "SQLite has one write lock for the whole file: writers wait while a batch is written, an index is built, or VACUUM copies the file.",
        "set a busy timeout of some seconds in the application, and use the write-ahead log (PRAGMA journal_mode = WAL)";
    NoPrimaryKey = "no-primary-key", Warns,
        "The table has no primary key: rows are converted by their place, and errors name that place only.",
        "give it a primary key if rows have to be found again";
    BoundProtected = "bound-protected", Refuses,
        "The tenant or row-key column is itself to be protected; a value cannot be bound to what is sealed.",
        "bind to another column";
    BoundType = "bound-type", Refuses,
        "The tenant or row-key column has a type that cannot be bound.",
        "use a column of type integer, text, uuid or bytea";
    BoundNullable = "bound-nullable", Warns,
        "The tenant or row-key column may be NULL; a row without it cannot be sealed and becomes a row error.",
        "fill it, and set NOT NULL";
    BoundCascade = "bound-cascade", Warns,
        "A foreign key with ON UPDATE CASCADE can change the tenant or row-key column, and with it what the envelopes are bound to; the guard refuses that change afterwards.",
        "do not change the referenced key, or reseal the rows through Enfold";
    RowKeyNotUnique = "row-key-not-unique", Warns,
        "No unique index covers the row key, so that values could be exchanged between rows of the same key.",
        "bind to the primary key, or make the row key unique";
    Collation = "collation", Warns,
        "The column has a collation of its own, so that something sorts or compares by it; order among envelopes means nothing.",
        "sort in the application, after opening";
    ExtendedStatistics = "extended-statistics", Warns,
        "Extended statistics over the column hold its most common values in plaintext.",
        "drop the statistics object after the conversion";
    CachedPlans = "cached-plans", Warns,
        "The table gets or changes columns: sessions with a prepared SELECT * fail with \"cached plan must not change result type\" until they prepare it again.",
        "name the columns in prepared statements, or reconnect the applications after that step";
    QueryEquality = "query-equality", Warns,
        "Recorded statements compare the column for equality; they find nothing once values are sealed, and only a part of the rows until then.",
        "look up by a blind index";
    QueryOrder = "query-order", Warns,
        "Recorded statements sort by the column or compare its order.",
        "sort in the application, after opening";
    QueryPattern = "query-pattern", Warns,
        "Recorded statements search the column by pattern.",
        "use a blind index over a word prefix or the last characters, or search in the application";
    QueryGroup = "query-group", Warns,
        "Recorded statements group by the column or count its distinct values.",
        "group by a blind index";
    QueryExpression = "query-expression", Warns,
        "Recorded statements compute something from the column.",
        "compute it in the application, after opening";
    QueryJoin = "query-join", Warns,
        "Recorded statements join the column with another.",
        "join by a key that is not protected";
    StatementsUnknown = "statements-unknown", Warns,
        "Which statements use the column is not known: pg_stat_statements is not there, or this role may not read it.",
        "install pg_stat_statements and let it record a usual week, or grant pg_read_all_stats";
    ConnectedApplication = "connected-application", Warns,
        "Applications are connected that may read the table; those that do not know envelopes would hand them out as values.",
        "deploy readers that register with Enfold before the first value is sealed";
    SingleRoot = "single-root", Warns,
        "Every value hangs on one root key; without it nothing of the ring opens.",
        "name a second root key in the ring's `roots`, in another region or at another key service; `enfold keys wraps --repair` then wraps what is there";
    CustomerKey = "customer-key", Warns,
        "A tenant holds a root key of its own: what is sealed for it opens while the customer lets it, and its rows are row errors of a job meanwhile.",
        "know whom to ask; `enfold keys customers` shows which root keys are signed, and how many data keys of the tenant need them";
    IndexCrosses = "index-crosses", Warns,
        "A blind index finds values across tenants, some of which hold a root key of their own: its index key is everybody's, so no customer's root key guards it.",
        "leave `cross_tenant` away where lookups know the tenant";
    LogicalSlot = "logical-slot", Warns,
        "A logical replication slot decodes every converted row; what falls behind keeps the write-ahead log on the disk.",
        "watch the slot while the job runs; a slot that nobody reads should be dropped";
    Slot = "slot", Warns,
        "A replication slot keeps write-ahead log until its reader has it; the conversion writes much.",
        "watch the slot while the job runs; a slot that nobody reads should be dropped";
    Standby = "standby", Warns,
        "Standby servers receive everything the conversion writes.",
        "the job waits while a standby lags more than the policy allows";
    Archive = "archive", Warns,
        "The write-ahead log is archived: room for what the conversion writes is needed there too, and what was archived before holds plaintext.",
        "let archived log and base backups from before the conversion expire";
    StatementLog = "statement-log", Warns,
        "The server logs statements or their parameters, so that plaintext which applications write is in its log.",
        "set log_parameter_max_length and log_parameter_max_length_on_error to 0, use parameters in place of literals, and clear the old log files";
    OldVersions = "old-versions", Warns,
        "The old row versions stay in the table's files after the conversion; VACUUM frees their room and does not clear it.",
        "rewrite the table afterwards with VACUUM FULL (locks it) or pg_repack";
    Growth = "growth", Warns,
        "What the conversion needs at most in the table's files and in the write-ahead log, if nothing is freed meanwhile.",
        "see that the disk has that much room, or limit the rate so that autovacuum keeps up";
}

impl Word {
    /// A finding about the table.
    pub fn finding(self, says: impl Into<String>) -> Finding {
        Finding {
            word: self.word().to_owned(),
            column: None,
            says: says.into(),
            way_out: Some(self.way_out().to_owned()),
        }
    }

    /// A finding about one column.
    pub fn about(self, column: &str, says: impl Into<String>) -> Finding {
        Finding { column: Some(column.to_owned()), ..self.finding(says) }
    }
}

impl Finding {
    /// Puts an exact way out in the place of the general one.
    #[must_use]
    pub fn out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }
}

macro_rules! kinds {
    ($( $name:ident = $word:literal, $meaning:literal, $clear:literal; )*) => {
        /// The closed set of places where plaintext stays behind.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Kind { $( #[doc = $meaning] $name, )* }

        impl Kind {
            /// Every kind, in the order of the reference.
            pub const ALL: &'static [Kind] = &[ $( Kind::$name, )* ];
            /// The stable word.
            pub const fn word(self) -> &'static str { match self { $( Kind::$name => $word, )* } }
            /// What it is.
            pub const fn meaning(self) -> &'static str { match self { $( Kind::$name => $meaning, )* } }
            /// How it is cleared in general; a report gives the exact statement.
            pub const fn clear(self) -> &'static str { match self { $( Kind::$name => $clear, )* } }
        }
    };
}

kinds! {
    DeadRows = "dead-rows",
        "Old row versions, in the table's pages and in the unwiped room that VACUUM freed in them.",
        "VACUUM (FULL, ANALYZE) the table, or pg_repack, while no older transaction is open in any database of the server: old rows that one might see are kept";
    ToastRows = "toast-rows",
        "Old values in the table's TOAST pages.",
        "VACUUM (FULL, ANALYZE) the table, or pg_repack";
    OldIndex = "old-index",
        "Entries of an index over the column, or the index itself.",
        "DROP INDEX, or REINDEX INDEX CONCURRENTLY where it is still wanted";
    Statistics = "statistics",
        "The planner's statistics: most common values and histogram bounds of the column.",
        "ANALYZE the table";
    ExtendedStatistics = "extended-statistics",
        "Extended statistics with most common values.",
        "DROP STATISTICS, or ANALYZE the table";
    CatalogPages = "catalog-pages",
        "Old versions of the planner's statistics in the catalog's own pages.",
        "VACUUM (FULL) pg_catalog.pg_statistic";
    DroppedColumn = "dropped-column",
        "A dropped column: Postgres leaves its values in every row until the row is rewritten.",
        "VACUUM (FULL) the table, or pg_repack: both leave dropped values out";
    MaterialisedView = "materialised-view",
        "A materialised view that copied the column before it was converted.",
        "REFRESH MATERIALIZED VIEW";
    SameValues = "same-values",
        "Another column of the database that holds values of this one.",
        "protect that column too, or clear it";
    StatementTexts = "statement-texts",
        "pg_stat_statements keeps statement texts, utility statements with their literals.",
        "SELECT pg_stat_statements_reset()";
    ServerLog = "server-log",
        "The server's log files, where statements or parameters were logged.",
        "remove the log files of the time before the conversion";
    WriteAheadLog = "wal",
        "The write-ahead log from before and during the conversion.",
        "CHECKPOINT, so that segments from before are recycled";
    Archive = "archive",
        "Archived write-ahead log.",
        "let it expire, or remove what is older than the conversion";
    Slot = "slot",
        "Write-ahead log that a replication slot holds back.",
        "let its reader catch up, or drop the slot";
    Standby = "standby",
        "A standby server's files: it receives the same pages, and keeps its own log.",
        "let it replay the rewriting of the table; remove its older log files";
    Subscriber = "subscriber",
        "Subscribers of a publication hold rows of their own.",
        "run audit there as well";
    BaseBackup = "base-backup",
        "Base backups and dumps from before the conversion.",
        "let them expire, or destroy them";
    FreePages = "free-pages",
        "SQLite's free pages and the unwiped ends of used ones.",
        "VACUUM with secure_delete on";
    RollbackLog = "rollback-log",
        "SQLite's rollback journal or write-ahead log beside the database file.",
        "PRAGMA wal_checkpoint(TRUNCATE)";
}

impl Kind {
    /// A place where residue was found, or could be.
    pub fn residue(
        self,
        place: impl Into<String>,
        column: Option<&str>,
        found: Option<u64>,
        clear: impl Into<String>,
    ) -> Residue {
        Residue {
            kind: self.word().to_owned(),
            place: place.into(),
            column: column.map(str::to_owned),
            found,
            clear: clear.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn reference() -> String {
        let mut page = String::from(
            "# What a plan says, and what a conversion leaves behind\n\n\
             Written from `crates/jobs/src/words.rs`; run `ENFOLD_BLESS=1 cargo test -p enfold-jobs words` after a change there.\n\n\
             ## Findings of `enfold plan`\n\n\
             A finding that refuses stops the conversion of its column, or of the table when it names no column. Each one in a\n\
             plan carries the objects it is about and a way out with their names.\n\n\
             | word | effect | what it means | way out |\n|---|---|---|---|\n",
        );
        for w in Word::ALL {
            writeln!(page, "| `{}` | {} | {} | {} |", w.word(), w.effect().word(), w.meaning(), w.way_out()).unwrap();
        }
        page.push_str(
            "\n## Residue, as `enfold audit --residue` names it\n\n\
             A count says how many were found; no count means that the place can only be named, because Enfold cannot look into it.\n\n\
             Where the keys are at hand the audit opens the values of some rows of each table (not those of less than six bytes) and\n\
             looks for copies of them; without keys it says so, and finds only what shows without knowing a value.\n\n\
             | word | what it is | how it is cleared |\n|---|---|---|\n",
        );
        for k in Kind::ALL {
            writeln!(page, "| `{}` | {} | {} |", k.word(), k.meaning(), k.clear()).unwrap();
        }
        page
    }

    #[test]
    fn words_are_distinct_and_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for word in Word::ALL.iter().map(|w| w.word()) {
            assert!(seen.insert(word), "{word} twice");
            assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{word}");
        }
        let kinds: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|k| k.word()).collect();
        assert_eq!(kinds.len(), Kind::ALL.len());
    }

    #[test]
    fn the_reference_page_lists_every_word() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/plan-findings.md");
        let page = reference();
        if std::env::var_os("ENFOLD_BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, &page).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(stored == page, "stale: run ENFOLD_BLESS=1 cargo test -p enfold-jobs words");
    }
}
