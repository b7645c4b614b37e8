// IQ3_XXS; the table is that of `backend/encoding`.
const TABLE = vec4<u32>(0x1c140c04u, 0x3e342c24u, 0xe4ecf4fcu, 0xc2ccd4dcu);

#import shared/places256
