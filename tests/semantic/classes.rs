use dora_eval::{images::masks::VOID, semantic::classes::Classes};

#[test]
fn ade20k_has_150_classes_from_index_1_on() {
    let classes = Classes::ade20k().unwrap();
    assert_eq!(classes.len(), 150);
    assert_eq!((classes.label(0), classes.label(1)), (Some(VOID), Some(0)));
    assert_eq!((classes.label(150), classes.label(151)), (Some(149), None));
    assert_eq!(classes.names().nth(12), Some("person"));
    assert_eq!(classes.index(12), 13);
    assert_eq!(classes.palette()[3 * 13..][..3], [150, 5, 61]);
}

#[test]
fn lists_name_classes_colours_and_void() {
    let lines = ["sky 1 2 3", "Void", "traffic light", "", "lane 2 4 5 6"];
    let classes = Classes::parse(&lines, None).unwrap();
    assert_eq!(classes.names().collect::<Vec<_>>(), ["sky", "traffic light", "lane 2"]);
    let labels: Vec<_> = [0, 1, 2, 3, 4, 255].map(|index| classes.label(index)).into();
    assert_eq!(labels, [Some(0), Some(VOID), Some(1), Some(2), None, Some(VOID)]);
    assert_eq!(classes.palette()[..3], [1, 2, 3]);
    assert_eq!(classes.palette()[9..12], [4, 5, 6]);
    // Index 2 of the palette of PASCAL VOC.
    assert_eq!(classes.palette()[6..9], [0, 128, 0]);
    assert_eq!(classes.expected(), "0 to 3 for classes and 1 or 255 for void");
}

#[test]
fn a_void_index_may_lie_beyond_the_list() {
    let classes = Classes::parse(&["a", "b"], Some(11)).unwrap();
    assert_eq!((classes.len(), classes.label(11), classes.label(2)), (2, Some(VOID), None));
}

#[test]
fn every_index_but_the_last_may_be_a_class() {
    let names: Vec<String> = (0..255).map(|index| format!("class {index} of 255")).collect();
    let lines: Vec<&str> = names.iter().map(String::as_str).collect();
    let classes = Classes::parse(&lines, None).unwrap();
    assert_eq!((classes.len(), classes.index(254), classes.label(254)), (255, 254, Some(254)));
}

#[test]
fn lists_that_cannot_be_learnt_are_refused() {
    for (lines, part) in [
        (vec!["one"], "at least 2"),
        (vec!["a", "b", "a"], "twice"),
        (vec!["a 1 2 999", "b"], "from 0 to 255"),
        (vec!["a"; 256], "256 classes"),
    ] {
        let message = Classes::parse(&lines, None).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}
