#pragma once
// See ../README.md: c10d includes this and needs nothing of it.
