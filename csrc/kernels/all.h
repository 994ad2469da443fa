/* Everything that a tier compiles, inside its own namespace. */
#pragma once

#include "matrix.h"
#include "rows.h"
#include "decoder.h"
