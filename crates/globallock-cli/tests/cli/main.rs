//! Tests of the command line from the outside: real processes, real stores.

mod address;
mod completions;
mod descriptors;
mod doctor;
mod evicting;
mod first;
mod full;
mod hold;
mod jobs;
mod loss;
mod onlook;
mod pages;
mod processes;
mod recipes;
mod refusals;
mod robustness;
mod run;
mod saying;
mod serve;
mod setup;
mod signals;
mod support;
mod terminals;
mod top;
