// Stands in for NVIDIA's header of this name: ATen's headers name these types, and nothing here uses
// them.

#pragma once

typedef struct cusparseContext *cusparseHandle_t;
enum cusparseStatus_t : int;
