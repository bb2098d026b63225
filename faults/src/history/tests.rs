use super::*;

#[test]
fn the_names_in_logs_stay_as_they_were() {
    let (at, claim, mended, owner) = (1, 2, 3, Some(4));
    let (name, kind, mode) = ("a".to_owned(), Kind::Permits, Mode::Wait(5));
    let invoke = OwnerEvent::Invoke { at, claim, name, kind, count: 6, capacity: 7, mode };
    let released = OwnerEvent::Released { at, claim, outcome: "left".to_owned() };
    let (kind, proof) = ("cut".to_owned(), "8".to_owned());
    let fault = FaultEvent::Fault { at, mended, kind, owner, proof, took_effect: true, forgets: false };
    let value = Some(SeenValue { fencing_token: 5, text: "5 1".to_owned() });
    let came = OwnerEvent::Value { at, claim, value };
    let set = OwnerEvent::ValueSet { at, claim, write: 1, answer: ValueAnswer::Unknown("no".to_owned()) };
    let lost = |reason, eviction| OwnerEvent::Lost { at, claim, reason, eviction };
    let evict =
        OwnerEvent::Evict { at, eviction: 2, name: "a".to_owned(), owner: 4, held: true, fencing_token: 5 };
    let json = [
        serde_json::to_string(&lost(Reason::Expired, None)).unwrap(),
        serde_json::to_string(&lost(Reason::Evicted, Some(reason_of_eviction(6, 2)))).unwrap(),
        serde_json::to_string(&Failure::Evicted("b".to_owned())).unwrap(),
        serde_json::to_string(&evict).unwrap(),
        serde_json::to_string(&OwnerEvent::Evicted { at, eviction: 2, answer: EvictionAnswer::NotHeld })
            .unwrap(),
        serde_json::to_string(&came).unwrap(),
        serde_json::to_string(&OwnerEvent::SetValue { at, claim, write: 1 }).unwrap(),
        serde_json::to_string(&set).unwrap(),
        serde_json::to_string(&invoke).unwrap(),
        serde_json::to_string(&released).unwrap(),
        serde_json::to_string(&fault).unwrap(),
    ];
    let kept = [
        r#"{"event":"lost","at":1,"claim":2,"reason":"expired"}"#,
        r#"{"event":"lost","at":1,"claim":2,"reason":"evicted","eviction":"owner 6 eviction 2"}"#,
        r#"{"evicted":"b"}"#,
        concat!(
            r#"{"event":"evict","at":1,"eviction":2,"name":"a","#,
            r#""owner":4,"held":true,"fencing_token":5}"#
        ),
        r#"{"event":"evicted","at":1,"eviction":2,"answer":"not_held"}"#,
        r#"{"event":"value","at":1,"claim":2,"value":{"fencing_token":5,"text":"5 1"}}"#,
        r#"{"event":"set_value","at":1,"claim":2,"write":1}"#,
        r#"{"event":"value_set","at":1,"claim":2,"write":1,"answer":{"unknown":"no"}}"#,
        concat!(
            r#"{"event":"invoke","at":1,"claim":2,"name":"a","kind":"permits","#,
            r#""weight":6,"capacity":7,"mode":{"wait":5}}"#
        ),
        r#"{"event":"released","at":1,"claim":2,"departure":"left"}"#,
        concat!(
            r#"{"event":"fault","at":1,"mended":3,"kind":"cut","owner":4,"#,
            r#""proof":"8","bit":true,"forgets":false}"#
        ),
    ];
    assert_eq!(json, kept);
}
