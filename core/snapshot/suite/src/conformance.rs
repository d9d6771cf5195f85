//! The list of the cases, as tests.

use crate::{Harness, Stage};

/// Plays `case` on a fresh snapshotter.
pub fn play(case: fn(&Stage), harness: Harness) {
    case(&Stage::new(harness));
}

/// Makes one `#[test]` of each case, in modules named by subject; `$factory` is a path to a
/// `fn() -> Harness`.
#[macro_export]
macro_rules! conformance {
    ($factory:path) => {
        $crate::tests! { $factory;
            lifecycle:
                basic, stat_active, stat_committed, transitivity, prepare_and_view_of_one_key, remove,
                remove_intermediate, remove_in_any_allowed_order, keys_are_reused, close_twice, odd_keys,
                timestamps;
            content:
                layer_file_update, remove_directory_in_lower_layer, chown, directory_permission_on_commit,
                deleted_files_in_child, move_file_from_lower_layer, rename, layers_128, special_files,
                committed_content_stays, writes_before_commit_are_kept;
            mounting:
                view_is_read_only, root_permission, root_owner_is_inherited, shapes, mounts_are_repeated,
                mapped_ids, mount_options_need_no_escape;
            labels:
                update, update_of_nothing, commit_replaces_labels, labels_at_the_limit,
                empty_values_delete, max_size;
            listing:
                walk, stat_in_walk, walk_in_order, walk_breaks, walk_sees_one_moment, walk_of_many,
                filters_that_are_wrong;
            errors:
                unknown_keys, parents, taken_keys, commits, children, committed_has_no_mounts,
                failures_change_nothing;
            extraction:
                a_layer_is_one_overlay_mount, a_layer_is_found_by_its_reference, rebase,
                rebase_keeps_whiteouts, rebase_errors;
            space:
                usage, usage_of_hard_links, usage_of_views, cleanup, cleanup_spares_the_living;
            keyspaces:
                names_are_separate, key_styles_do_not_mix;
            concurrency:
                independent_callers, one_key_many_callers, one_name_many_callers, one_removal_many_callers,
                parent_removed_under_child, labels_by_many_callers, cleanup_beside_callers;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! tests {
    ($factory:path; $($subject:ident: $($case:ident),+;)+) => {
        $(
            mod $subject {
                $(
                    #[test]
                    fn $case() {
                        $crate::play($crate::cases::$subject::$case, $factory());
                    }
                )+
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    /// A case that the macro does not list would never run.
    #[test]
    fn every_case_is_listed() {
        let listed = include_str!("conformance.rs");
        let listed = &listed[..listed.find("#[cfg(test)]").unwrap()];
        let mut cases = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cases")).unwrap() {
            let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            for line in source
                .lines()
                .filter_map(|line| line.strip_prefix("pub fn "))
            {
                let case = line.split('(').next().unwrap();
                let found = listed
                    .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
                    .any(|word| word == case);
                assert!(found, "case {case} is not listed in conformance!");
                cases += 1;
            }
        }
        assert!(cases > 50, "only {cases} cases found");
    }
}
