//! 2.9: references into other namespaces.

use outrigger_tests::app::http::echo;
use outrigger_tests::{Mesh, eventually};

use super::{check, get, http};
use crate::documents::mesh_config;

fn grant(version: &str, kind: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: desk}}\nspec:\n  \
         from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: shop}}]\n  to: [{to}]\n---\n"
    )
}

async fn becomes(mesh: &Mesh, status: u16, reason: &str) {
    eventually("the route is resolved again", || async {
        let answer = mesh.client("web").get("http://echo/").await;
        let said = super::conditions(mesh, "httproutes", "r").await;
        let expected = said.get(1).is_some_and(|condition| condition.ends_with(reason));
        if answer.status == status && expected { Ok(()) } else { Err(format!("{said:?} {answer:?}")) }
    })
    .await;
}

#[tokio::test]
async fn grants_are_asked_for_where_the_mesh_says_so_and_come_and_go() {
    let route = http("r", &["{backendRefs: [{name: far, namespace: desk, port: 80}]}"]);
    let mesh = Mesh::builder()
        .service("echo", echo())
        .client("web")
        .namespace("desk")
        .service("far", echo())
        .policy(&(super::ECHO.to_owned() + &route))
        .start()
        .await;
    check(&mesh, vec![get("http://echo/").to("far")]).await;
    mesh.apply(&mesh_config("routing: {requireReferenceGrants: true}")).await;
    becomes(&mesh, 500, "RefNotPermitted").await;
    check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
    mesh.apply(&grant("v1", "HTTPRoute", "{group: '', kind: Service}")).await;
    becomes(&mesh, 200, "ResolvedRefs").await;
    mesh.apply(&grant("v1beta1", "HTTPRoute", "{group: '', kind: Service, name: other}")).await;
    becomes(&mesh, 500, "RefNotPermitted").await;
    mesh.apply(&grant("v1", "HTTPRoute", "{group: '', kind: Secret}, {group: '', kind: Service, name: far}"))
        .await;
    becomes(&mesh, 200, "ResolvedRefs").await;
    mesh.apply(&grant("v1", "GRPCRoute", "{group: '', kind: Service}")).await;
    becomes(&mesh, 500, "RefNotPermitted").await;
    mesh.apply(&grant("v1", "HTTPRoute", "{group: '', kind: Service}")).await;
    becomes(&mesh, 200, "ResolvedRefs").await;
    mesh.api("DELETE", "/v1/namespaces/desk/referencegrants/g", "").await;
    becomes(&mesh, 500, "RefNotPermitted").await;
}

#[tokio::test]
async fn without_a_grant_nobody_learns_what_is_there() {
    let mut said = Vec::new();
    for backend in ["far", "nobody"] {
        let route =
            http("r", &[&format!("{{backendRefs: [{{name: {backend}, namespace: desk, port: 80}}]}}")]);
        let required = mesh_config("routing: {requireReferenceGrants: true}");
        let mesh = Mesh::builder()
            .client("web")
            .namespace("desk")
            .service("far", echo())
            .policy(&(super::ECHO.to_owned() + &required + &route))
            .start()
            .await;
        check(&mesh, vec![get("http://echo/").fails(500, "invalid-backend")]).await;
        let mut status = mesh.show("/v1/namespaces/shop/httproutes/r").await["status"].take();
        for condition in status["parents"][0]["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastTransitionTime"].take(); // the route is made anew
        }
        said.push(status.to_string().replace(&format!("refer to {backend}"), "refer to it"));
    }
    assert_eq!(said[0], said[1]);
}
